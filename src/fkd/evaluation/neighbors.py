"""Accuracy of embeddings while a student is trained: do images of a class have near features?

Only labeled images are needed, none of them for training: each half of them is classified by its
nearest neighbors in the other half.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages, is_distributed, load_share
from fkd.evaluation.probes import Features, knn_accuracy
from fkd.models.features import PooledFeatures
from fkd.models.preprocessing import Preprocessing

_NEIGHBORS = 20
_BATCH_SIZE = 128


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
    network = PooledFeatures(model).eval()
    own = _own_features(network, images, preprocessing, device, num_workers)
    labeled = Features(_gather(own, len(images.chosen)), torch.from_numpy(images.labels))
    # Images lie class by class: every second one makes halves with the same classes.
    even, odd = (labeled[torch.arange(first, len(labeled), 2)] for first in (0, 1))
    right = sum(
        knn_accuracy(known, asked, k=min(_NEIGHBORS, len(known))) * len(asked)
        for known, asked in ((even, odd), (odd, even))
    )
    return right / len(labeled)


@torch.inference_mode()
def _own_features(
    network: PooledFeatures,
    images: LabeledImages,
    preprocessing: Preprocessing,
    device: torch.device,
    num_workers: int,
) -> list[Tensor]:
    """Features (B, D) of the batches of this process's share, on the CPU."""
    return [
        network(preprocessing.normalize(crops.to(device, non_blocking=True))).float().cpu()
        for crops, _ in load_share(images, preprocessing, _BATCH_SIZE, num_workers)
    ]


def _gather(own: list[Tensor], num_images: int) -> Tensor:
    """Features (n, D) of all images in their order, from the shares of all processes."""
    if not is_distributed():
        return torch.cat(own)
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, own)
    values = torch.empty(num_images, shares[0][0].shape[1])
    for rank, share in enumerate(shares):
        if share:  # there may be more processes than images
            values[rank :: len(shares)] = torch.cat(share)
    return values
