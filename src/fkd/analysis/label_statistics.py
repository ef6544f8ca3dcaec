"""Numbers of one teacher's labels, and of two teachers' labels of the same crops.

All are functions of probabilities (N, C) and true classes, so they hold for networks and stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkd.labels.comparison import LabelComparison, compare
from fkd.labels.targets import SoftTargets

NUM_BINS = 15
"""Of confidence, in [0, 1]. Source: Guo et al., On Calibration of Modern Neural Networks, 2017."""

_ENTROPY_BINS = 25  # from 0 to the logarithm of the number of classes
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_AT_ONCE = 512  # labels that are compared in float64


@dataclass(frozen=True)
class CalibrationBin:
    """Labels whose highest probability lies in one of `NUM_BINS` equal intervals.

    Attributes:
        num: how many.
        confidence: mean of their highest probability.
        accuracy: share of them whose most probable class is the true one.
    """

    num: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class LabelStatistics:
    """What labels of N crops are like.

    Attributes:
        num: N.
        entropy: mean, nats.
        entropy_quantiles: at 5, 25, 50, 75 and 95 %, nats.
        entropy_histogram: shares of the labels in equal intervals from 0 to log C; they sum to 1.
        confidence: mean of the highest probability.
        kept: mean sum of the `num_kept` highest probabilities.
        num_kept: K.
        num_known: crops whose true class is known and among the C.
        accuracy: share of these whose most probable class is the true one; None where there are
            none.
        calibration_error: mean over them of |confidence - accuracy| of their bin (expected
            calibration error), in [0, 1]; None where there are none.
        bins: those that are not empty, by rising confidence.
    """

    num: int
    entropy: float
    entropy_quantiles: tuple[float, ...]
    entropy_histogram: tuple[float, ...]
    confidence: float
    kept: float
    num_kept: int
    num_known: int
    accuracy: float | None
    calibration_error: float | None
    bins: tuple[CalibrationBin, ...]


def label_statistics(probabilities: Tensor, truth: Tensor, num_kept: int) -> LabelStatistics:
    """Numbers of labels.

    Args:
        probabilities: float32 (N, C), N at least 1.
        truth: true class ids, int64 (N,), -1 where unknown.
        num_kept: K.
    """
    num_classes = probabilities.shape[1]
    entropies = _entropies(probabilities)
    counts, _ = np.histogram(entropies, _ENTROPY_BINS, (0.0, np.log(max(2, num_classes)) + 1e-6))
    confidence, predicted = probabilities.max(dim=1)
    known = truth >= 0
    bins = _calibration_bins(confidence[known], (predicted == truth)[known])
    num_known = int(known.sum())
    return LabelStatistics(
        num=len(probabilities),
        entropy=float(entropies.mean()),
        entropy_quantiles=tuple(np.quantile(entropies, _QUANTILES).tolist()),
        entropy_histogram=tuple((counts / len(probabilities)).tolist()),
        confidence=float(confidence.double().mean()),
        kept=float(probabilities.topk(min(num_kept, num_classes)).values.double().sum(1).mean()),
        num_kept=num_kept,
        num_known=num_known,
        accuracy=sum(b.num * b.accuracy for b in bins) / num_known if num_known else None,
        calibration_error=(
            sum(b.num * abs(b.confidence - b.accuracy) for b in bins) / num_known
            if num_known
            else None
        ),
        bins=tuple(bins),
    )


def accuracy_of(probabilities: Tensor, truth: Tensor) -> float | None:
    """Share of the labels with a known true class whose most probable class it is; None of none."""
    known = truth >= 0
    if not bool(known.any()):
        return None
    return float((probabilities.argmax(dim=1) == truth)[known].double().mean())


def compare_all(
    labels: Sequence[Tensor], comparable: np.ndarray
) -> list[list[LabelComparison | None]]:
    """Each teacher's labels as reference (row) against those of each (column).

    Args:
        labels: probabilities (N, C) of the same crops and classes, where `comparable`.
        comparable: bool (teachers, teachers), whether two labeled the same crops.
    """
    return [
        [_compare(p, q) if comparable[i, j] else None for j, q in enumerate(labels)]
        for i, p in enumerate(labels)
    ]


def _compare(reference: Tensor, other: Tensor) -> LabelComparison:
    parts = zip(torch.split(reference, _AT_ONCE), torch.split(other, _AT_ONCE), strict=True)
    compared = (compare(SoftTargets.full(p), SoftTargets.full(q)) for p, q in parts)
    return sum(compared, start=LabelComparison.empty())


def _entropies(probabilities: Tensor) -> np.ndarray:
    """Nats, float64 (N,)."""
    parts = torch.split(probabilities, _AT_ONCE)
    return torch.cat([torch.special.entr(part.double()).sum(1) for part in parts]).numpy()


def _calibration_bins(confidence: Tensor, right: Tensor) -> list[CalibrationBin]:
    """Intervals (low, high] of confidence, as the paper has them; without the empty ones."""
    confidence, right = confidence.double(), right.double()
    # float32 edges: a confidence is on the side where float32 puts it
    edges = torch.linspace(0, 1, NUM_BINS + 1).double()
    places = torch.bucketize(confidence, edges[1:-1], right=False)
    return [
        CalibrationBin(
            int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())
        )
        for b in range(NUM_BINS)
        if bool((inside := places == b).any())
    ]
