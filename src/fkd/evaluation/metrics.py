"""What a classifier's outputs for labeled images are worth: pure functions of tensors.

An image may have several right classes (ReaL) or none that is known. So its truth is a row of class
ids, padded with -1; a prediction is right if it is one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CALIBRATION_BINS = 15
CALIBRATION_NORM: Literal["l1"] = "l1"
_TOP = 5


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of n images, and whether it is right.

    Attributes:
        predicted: the most probable class, int64 (n,).
        confidence: its probability, float32 (n,).
        top1: whether it is right, bool (n,).
        top5: whether one of the five most probable classes is, of all where there are fewer.
        logits: where images have several classes each, float32 (n, C); else None.
    """

    predicted: Tensor
    confidence: Tensor
    top1: Tensor
    top5: Tensor
    logits: Tensor | None = None

    @classmethod
    def join(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Those of several batches as one."""
        names = [field.name for field in fields(cls) if getattr(parts[0], field.name) is not None]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class Comparison(NamedTuple):
    """How far two classifiers differ on each of n images.

    Attributes:
        agree: whether their most probable class is the same, bool (n,).
        divergence: Kullback-Leibler divergence of the second from the first, nats, float32 (n,).
    """

    agree: Tensor
    divergence: Tensor


def predict(logits: Tensor, truth: Tensor) -> Predictions:
    """What logits float32 (n, C) say of images with truth int64 (n, L), ids padded with -1."""
    ranked = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices
    right = (ranked[:, :, None] == truth[:, None, :]).any(dim=2)
    confidence = torch.softmax(logits, dim=1).amax(dim=1)
    return Predictions(ranked[:, 0], confidence, right[:, 0], right.any(dim=1))


def compare_outputs(teacher: Tensor, student: Tensor) -> Comparison:
    """Top-1 agreement and KL(teacher || student) of the softmaxes of logits (n, C).

    The divergence is never negative, so what rounding makes negative is 0.
    """
    divergence = F.kl_div(
        F.log_softmax(student, dim=1),
        F.log_softmax(teacher, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    agree = teacher.argmax(dim=1) == student.argmax(dim=1)
    return Comparison(agree, divergence.clamp_min(0.0))


def compare_multi_label(teacher: Tensor, student: Tensor) -> Comparison:
    """`compare_outputs` of the sigmoids of logits (n, C): the divergences of all classes together.

    Uses KL = p (t - s) + softplus(s) - softplus(t) for logits t and s, and p of the teacher.
    """
    teacher, student = teacher.double(), student.double()
    p = torch.sigmoid(teacher)
    divergence = p * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    agree = teacher.argmax(dim=1) == student.argmax(dim=1)
    return Comparison(agree, divergence.sum(dim=1).clamp_min(0.0).float())


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error, in [0, 1]: the mean distance of confidence and accuracy.

    Images are in 15 bins of equal width by confidence; the distances of the bins' mean confidence
    and accuracy count by their number of images (norm l1).

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. 3.

    Args:
        confidence: probability of the predicted class, (n,).
        right: whether it is the true one, bool (n,).
    """
    from torchmetrics.functional.classification import binary_calibration_error  # takes seconds

    # torchmetrics gives a confidence of exactly 1 a bin of its own, beside the last one.
    below_one = torch.nextafter(torch.ones(()), torch.zeros(()))
    error = binary_calibration_error(
        confidence.float().clamp(max=below_one),
        right.long(),
        n_bins=CALIBRATION_BINS,
        norm=CALIBRATION_NORM,
    )
    return float(error)


def count_by_class(truth: Tensor, right: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images of each class, and those of them that are predicted right, both int64 (classes,).

    An image of several classes counts for each of them.

    Args:
        truth: class ids, padded with -1, int64 (n, L).
        right: bool (n,).
        num_classes: C.
    """
    rows, places = (truth >= 0).nonzero(as_tuple=True)
    labels = truth[rows, places]
    return (
        torch.bincount(labels, minlength=num_classes),
        torch.bincount(labels[right[rows]], minlength=num_classes),
    )
