"""Accuracy of classifiers."""

from fkd.evaluation.accuracy import Accuracy, LabeledImages, measure_accuracy

__all__ = ["Accuracy", "LabeledImages", "measure_accuracy"]
