"""What labels say in one number each, without forming the probabilities of all classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fkd.labels.targets import SoftTargets
from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def top_probability(targets: SoftTargets) -> Tensor:
    """Probability of the most probable class of each crop, float64 (B,).

    Args:
        targets: whose kept classes are distinct (not of several teachers, nor mixed).
    """
    top = (targets.weight + targets.tail[:, None]).amax(1)
    if targets.weight.shape[1] < targets.num_classes:
        top = torch.maximum(top, targets.tail)
    return top.double()


def top_class(targets: SoftTargets, num_images: int) -> Tensor:
    """The class with the highest mean probability over the crops of each image, int64 (n,).

    Args:
        targets: of equally many crops of each image, image by image.
        num_images: n.
    """
    if targets.index is None:
        mean = targets.weight.reshape(num_images, -1, targets.num_classes).mean(1)
    else:  # the tails add the same to every class
        mean = torch.zeros(num_images, targets.num_classes)
        mean.scatter_add_(
            1, targets.index.reshape(num_images, -1), targets.weight.reshape(num_images, -1)
        )
    return mean.argmax(1)


def probability_of(targets: SoftTargets, classes: Tensor) -> Tensor:
    """Probability of one class of each crop, float64 (B,).

    Args:
        targets: labels of B crops.
        classes: a class id for each, int64 (B,).
    """
    if targets.index is None:
        kept = targets.weight.gather(1, classes[:, None])[:, 0]
    else:
        kept = (targets.weight * (targets.index == classes[:, None])).sum(1)
    return (targets.tail + kept).double()
