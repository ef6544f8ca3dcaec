"""Features of all images of a source under a frozen network, computed once and kept in a file."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fkd.data.ahead import look_ahead, single_threaded_pool
from fkd.data.sources import ImageSource, load
from fkd.evaluation.accuracy import center_crop
from fkd.models.checkpoints import weights_sha256
from fkd.models.preprocessing import Preprocessing
from fkd.store import keys_digest

_MEMBER, _IDENTITY = "features", "fkd.identity"
Progress = Callable[[int], None]  # so many more images are done


@dataclass(frozen=True)
class FeatureRequest:
    """Whose features of which images.

    Attributes:
        network: frozen; images (B, 3, S, S) to features (B, D).
        preprocessing: the input that it expects.
        source: the images.
    """

    network: nn.Module
    preprocessing: Preprocessing
    source: ImageSource

    @property
    def identity(self) -> str:
        """SHA-256 of what features depend on, but the bytes of images: weights, input, keys."""
        keys = keys_digest(self.source.key(i) for i in range(len(self.source)))
        members = {
            "weights": weights_sha256(self.network.state_dict()),
            "preprocessing": asdict(self.preprocessing),
            "keys": keys,
        }
        return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def load_or_compute(request: FeatureRequest, cache: Path | None, **options: Any) -> Tensor:
    """Features float32 (n, D) of all images, from the file `cache` where it holds these.

    A file of other features, or a damaged one, is written anew.

    Args:
        request: whose features of which images.
        cache: the file; None keeps nothing.
        options: as for `compute_features`.

    Raises:
        ImageError: an image cannot be read.
    """
    identity = request.identity
    kept = None if cache is None else _read(cache, identity)
    if kept is not None:
        return kept
    features = compute_features(request, **options)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({_MEMBER: features}, cache, metadata={_IDENTITY: identity})
    return features


@torch.inference_mode()
def compute_features(
    request: FeatureRequest,
    *,
    device: torch.device,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Progress = lambda num_images: None,
) -> Tensor:
    """Features float32 (n, D) of the center crops of all images, in the order of the source.

    The network is in eval mode meanwhile and on `device` afterwards.

    Raises:
        ImageError: an image cannot be read.
    """
    network = request.network.to(device).eval()
    parts = []
    for crops in _batches(request, batch_size, num_workers):
        features = network(request.preprocessing.normalize(crops.to(device, non_blocking=True)))
        parts.append(features.float().cpu())
        progress(len(crops))
    return torch.cat(parts)


def _batches(request: FeatureRequest, batch_size: int, num_workers: int) -> Iterator[Tensor]:
    """Center crops uint8 (B, 3, S, S), channels-last, built ahead."""
    positions = range(len(request.source))
    parts = [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]
    build = partial(_crops, request)
    if num_workers == 0:
        yield from map(build, parts)
        return
    with single_threaded_pool(num_workers) as pool:
        yield from look_ahead(pool, build, parts, num_workers)


def _crops(request: FeatureRequest, part: range) -> Tensor:
    images = [load(request.source, i).image for i in part]
    crops = torch.stack([center_crop(image, request.preprocessing) for image in images])
    return crops.contiguous(memory_format=torch.channels_last)


def _read(file: Path, identity: str) -> Tensor | None:
    """The features in a file, or None if it holds none of this identity."""
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get(_IDENTITY) != identity:
                return None
            features: Tensor = opened.get_tensor(_MEMBER)
            return features
    except (OSError, SafetensorError):
        return None
