"""The figures of a result from what a pass over a set has found."""

from typing import Any

import torch
from torch import Tensor

from fkd.evaluation.metrics import Comparison, Predictions, calibration_error, count_by_class
from fkd.evaluation.multi_label import score_multi_label
from fkd.evaluation.results import ClassResult
from fkd.evaluation.sets import Truth


def summarize(predictions: Predictions, truth: Truth) -> dict[str, Any]:
    """The figures that need true classes."""
    names = ("top1", "top5", "mean_class_top1", "calibration_error")
    if truth.labels.shape[1] == 0:
        return {**dict.fromkeys(names), "classes": []}
    labels = torch.from_numpy(truth.labels)
    if predictions.logits is not None:
        return {**dict.fromkeys(names), **_summarize_multi_label(predictions.logits, labels, truth)}
    counts, right = count_by_class(labels, predictions.top1, len(truth.class_names))
    classes = [
        ClassResult(truth.class_names[i], int(counts[i]), 100.0 * int(right[i]) / int(counts[i]))
        for i in counts.nonzero()[:, 0].tolist()
    ]
    return {
        "top1": _percent(predictions.top1),
        "top5": _percent(predictions.top5),
        "mean_class_top1": sum(of_one.top1 or 0.0 for of_one in classes) / len(classes),
        "calibration_error": 100.0 * calibration_error(predictions.confidence, predictions.top1),
        "classes": classes,
    }


def _summarize_multi_label(logits: Tensor, labels: Tensor, truth: Truth) -> dict[str, Any]:
    """The figures of images with several classes each."""
    scores = score_multi_label(logits, labels)
    return {
        "mean_ap": scores.mean_ap,
        "micro_f1": scores.micro_f1,
        "macro_f1": scores.macro_f1,
        "num_absent_classes": scores.num_absent,
        "classes": [
            ClassResult(truth.class_names[i], int(count), None, float(scores.average_precision[i]))
            for i, count in enumerate(scores.num_images)
            if count
        ],
    }


def summarize_comparison(comparison: Comparison | None) -> dict[str, Any]:
    """The figures that need a teacher."""
    if comparison is None:
        return {"agreement": None, "divergence": None}
    return {
        "agreement": _percent(comparison.agree),
        "divergence": float(comparison.divergence.double().mean()),
    }


def _percent(right: torch.Tensor) -> float:
    return 100.0 * int(right.sum()) / len(right)
