"""Accuracy of embeddings while a student is trained: do images of a class have near features?

Only labeled images are needed, none of them for training: each half of them is classified by its
nearest neighbors in the other half.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from fkd.data.subset import SubsetSource
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages
from fkd.evaluation.features import FeatureRequest, compute_features
from fkd.evaluation.probes import Features, knn_accuracy
from fkd.models.features import PooledFeatures
from fkd.models.preprocessing import Preprocessing

_NEIGHBORS = 20


def require_halves(images: LabeledImages) -> None:
    """Refuse images of which no two halves can be made.

    Raises:
        ConfigError: there is one labeled image.
    """
    if len(images.chosen) < 2:
        raise ConfigError(
            f"val: {images.source.root} has a single labeled image; nearest neighbors need more"
        )


def measure_neighbors(
    model: nn.Module,
    images: LabeledImages,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    num_workers: int = 0,
) -> float:
    """Top-1 in percent of a vote of the 20 nearest neighbors in the other half of the images.

    With several processes, each computes features of its share of the images. The model is in eval
    mode afterwards.

    Raises:
        ImageError: an image cannot be read.
    """
    network = PooledFeatures(model)
    values = _gather_features(
        network, images, preprocessing, device=device, num_workers=num_workers
    )
    labeled = Features(values, torch.from_numpy(images.labels))
    # Images lie class by class: every second one makes halves with the same classes.
    even, odd = (labeled[torch.arange(first, len(labeled), 2)] for first in (0, 1))
    right = sum(
        knn_accuracy(known, asked, k=min(_NEIGHBORS, len(known))) * len(asked)
        for known, asked in ((even, odd), (odd, even))
    )
    model.eval()
    return right / len(labeled)


def _gather_features(
    network: PooledFeatures, images: LabeledImages, preprocessing: Preprocessing, **options: Any
) -> Tensor:
    """Features (n, D) of all labeled images, on the CPU, the same in all processes."""
    rank, world_size = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if len(images.chosen) < world_size:
        rank, world_size = 0, 1  # few enough for every process to compute all
    share = SubsetSource(images.source, images.chosen[rank::world_size].tolist())
    own = compute_features(FeatureRequest(network, preprocessing, share), **options)
    if world_size == 1:
        return own
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, own)
    values = own.new_empty(len(images.chosen), own.shape[1])
    for number, part in enumerate(parts):
        values[number::world_size] = part
    return values
