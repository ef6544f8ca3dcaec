"""Labeling and training in miniature, on real images that ship inside packages."""

from fkd.demo.digits import DigitsResult, StudentRow, compare_methods
from fkd.demo.photographs import Photograph, PhotographsResult, label_photographs

__all__ = [
    "DigitsResult",
    "Photograph",
    "PhotographsResult",
    "StudentRow",
    "compare_methods",
    "label_photographs",
]
