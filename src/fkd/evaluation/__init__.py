"""How good a classifier is."""

from fkd.evaluation.accuracy import Accuracy, LabelledImages, measure_accuracy

__all__ = ["Accuracy", "LabelledImages", "measure_accuracy"]
