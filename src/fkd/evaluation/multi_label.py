"""Mean average precision and F1 of a classifier on images with several classes each.

    AP_c  = mean over the images of class c of the precision at their rank:
            of all images whose score for c is at least theirs, the share that have c
    mAP   = mean of AP_c over the classes that any image has
    F1    = 2 TP / (2 TP + FP + FN) of predictions with a probability of 1/2 or more, that is a
            logit of 0 or more: micro counts all classes together, macro is the mean of the classes
            that any image has

Scores of a class are compared between images, so the logits serve as well as their sigmoids; these
are equal where float32 rounds them to 1. Equal scores share a rank, as in scikit-learn's
`average_precision_score`: neither torchmetrics nor it tells which classes no image has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from fkd.data.class_sets import known_labels, padded
from fkd.data.joining import class_ids_among
from fkd.data.sources import ImageSource
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages, is_distributed, load_share, some_names
from fkd.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class MultiLabelScores:
    """How well scores find the classes of images; percent.

    Attributes:
        average_precision: of each class, float64 (C,), NaN of those that no image has.
        micro_f1, macro_f1: see the top of this file; 0 where nothing is found.
        num_images: of each class, int64 (C,).
    """

    average_precision: np.ndarray
    micro_f1: float
    macro_f1: float
    num_images: np.ndarray

    @property
    def mean_ap(self) -> float:
        """mAP, percent."""
        return float(np.nanmean(self.average_precision))

    @property
    def num_absent(self) -> int:
        """Classes that no image has, which are left out of the means."""
        return int((self.num_images == 0).sum())


@dataclass(frozen=True, kw_only=True)
class MultiLabelImages:
    """The images of a source with several classes each.

    Attributes:
        source: the images, which all count; those without a class have none of the model's.
        truth: the model's ids of their classes, padded with -1, int64 (n, L).
        num_classes: of the model.
    """

    source: ImageSource
    truth: np.ndarray
    num_classes: int

    @staticmethod
    def match(source: ImageSource, class_names: Sequence[str]) -> "MultiLabelImages":
        """Pair the images with the classes of a model, by name; others are left out.

        Raises:
            ConfigError: no image has a class that the model knows.
        """
        ids = class_ids_among(source, class_names)
        if ids is None:
            raise ConfigError(f"no image of {source.root} has a class; give images with classes")
        truth = padded([known_labels(source, i, ids) for i in range(len(source))])
        if not (truth >= 0).any():
            raise ConfigError(
                f"no image of {source.root} has a class that the model knows; its classes are "
                f"{some_names(class_names)}, those of the images {some_names(source.class_names)}"
            )
        return MultiLabelImages(source=source, truth=truth, num_classes=len(class_names))


@torch.inference_mode()
def measure_multi_label(
    model: nn.Module,
    images: MultiLabelImages,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int = 128,
    num_workers: int = 0,
) -> MultiLabelScores:
    """The scores of a model; with several processes, each computes its share of the images.

    The model is in eval mode afterwards.

    Raises:
        ImageError: an image cannot be read.
    """
    model.eval()
    rows = np.arange(len(images.source))
    numbered = LabeledImages(source=images.source, chosen=rows, labels=rows)
    logits = torch.zeros(len(rows), images.num_classes)
    for crops, places in load_share(numbered, preprocessing, batch_size, num_workers):
        outputs = model(preprocessing.normalize(crops.to(device, non_blocking=True)))
        logits[places] = outputs.float().cpu()
    if is_distributed():
        shared = logits.to(device)
        torch.distributed.all_reduce(shared)
        logits = shared.cpu()
    return score_multi_label(logits, torch.from_numpy(images.truth))


def score_multi_label(logits: Tensor, truth: Tensor) -> MultiLabelScores:
    """The scores of logits (n, C) of images with these classes, padded with -1, int64 (n, L)."""
    num_classes = logits.shape[1]
    rows, places = (truth >= 0).nonzero(as_tuple=True)
    right = torch.zeros(logits.shape, dtype=torch.bool)
    right[rows, truth[rows, places]] = True
    num_images = right.sum(0)
    precision = [average_precision(logits[:, c], right[:, c]) for c in range(num_classes)]
    predicted = logits >= 0
    hits, errors = (predicted & right).sum(0), (predicted != right).sum(0)
    present = num_images > 0
    of_class = 2.0 * hits / (2 * hits + errors).clamp(min=1)
    total = 2 * hits.sum() + errors.sum()
    return MultiLabelScores(
        average_precision=100.0 * np.array(precision),
        micro_f1=100.0 * float(2.0 * hits.sum() / total.clamp(min=1)),
        macro_f1=100.0 * float(of_class[present].double().mean()) if present.any() else 0.0,
        num_images=num_images.numpy(),
    )


def average_precision(scores: Tensor, right: Tensor) -> float:
    """AP of the scores (n,) of one class, in [0, 1]; NaN where no image has it.

    Args:
        scores: any order-preserving function of the probability.
        right: whether each image has the class, bool (n,).
    """
    if not bool(right.any()):
        return float("nan")
    ordered, order = scores.sort(descending=True)
    hits = right[order].long().cumsum(0)
    ends = torch.ones(len(ordered), dtype=torch.bool)
    ends[:-1] = ordered[1:] != ordered[:-1]  # equal scores share the rank of their last
    last = ends.nonzero()[:, 0]
    found = hits[last]
    new = torch.diff(found, prepend=found.new_zeros(1))
    return float((new * found.double() / (last + 1)).sum() / found[-1])
