"""Features of all images of a source under a frozen network, computed once and kept in files.

The files of one network and one set of images are in a folder of their own, in parts of 2,048
images, so that a killed extraction resumes after the last complete part:

    FOLDER/tf_efficientnet_lite0-0f3a.../00000000.safetensors
        features    float32 (n, D)
        crc32       int64 (n,), the checksum of the file of each image
        metadata    model, weights, preprocessing and images, and the SHA-256 of these

A part is used again only if all of that fits, and if some images of it, read again, have the
checksum that they had.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fkd.data.ahead import map_ahead
from fkd.data.sources import ImageSource, fingerprint, load
from fkd.errors import ConfigError, RunError
from fkd.evaluation.accuracy import center_crop
from fkd.models.checkpoints import weights_sha256
from fkd.models.preprocessing import Preprocessing
from fkd.store import keys_digest
from fkd.userfiles import os_reason

IMAGES_PER_PART = 2048
_READ_AGAIN = 16  # images of a part whose checksums are compared before it is used, at most
_FEATURES, _CRC32 = "features", "crc32"
_IDENTITY, _REQUEST = "fkd.identity", "fkd.request"
Progress = Callable[[int], None]  # so many more images are done


@dataclass(frozen=True)
class FeatureRequest:
    """Whose features of which images.

    Attributes:
        network: frozen; images (B, 3, S, S) to features (B, D).
        preprocessing: the input that it expects.
        source: the images.
        name: of the network.
    """

    network: nn.Module
    preprocessing: Preprocessing
    source: ImageSource
    name: str = "network"

    @cached_property
    def members(self) -> dict[str, Any]:
        """What features depend on: network, weights, input, keys and some checksums of images."""
        count = len(self.source)
        return {
            "model": self.name,
            "weights": weights_sha256(self.network.state_dict()),
            "preprocessing": self.preprocessing.to_json(),
            "num_images": count,
            "keys": keys_digest(self.source.key(i) for i in range(count)),
            "crc32": [fingerprint(self.source.read(i))[0] for i in _spread(range(count))],
        }

    @property
    def identity(self) -> str:
        """SHA-256 of the members."""
        return hashlib.sha256(json.dumps(self.members, sort_keys=True).encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """What the folder of its features is called."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.name)}-{self.identity[:16]}"


class Part(NamedTuple):
    """The features of some images, in the order of the source.

    Attributes:
        features: float32 (n, D).
        crc32: checksum of each image's file, int64 (n,).
    """

    features: Tensor
    crc32: Tensor


@dataclass(frozen=True)
class FeatureCache:
    """Where the features of a request are kept."""

    folder: Path
    request: FeatureRequest

    @cached_property
    def path(self) -> Path:
        """The folder of the parts."""
        return self.folder / self.request.folder_name

    def read(self, rows: range) -> Part | None:
        """The part of these images, or None if no file holds it, or the images have changed."""
        try:
            with safe_open(self._file(rows), "pt") as opened:
                if (opened.metadata() or {}).get(_IDENTITY) != self.request.identity:
                    return None
                part = Part(opened.get_tensor(_FEATURES), opened.get_tensor(_CRC32))
        except (OSError, SafetensorError):  # absent or damaged
            return None
        whole = len(part.features) == len(part.crc32) == len(rows)
        return part if whole and self._same_images(rows, part.crc32) else None

    def write(self, rows: range, part: Part) -> None:
        """Make a part appear all at once.

        Raises:
            RunError: the disk is full or refuses.
        """
        metadata = {
            _IDENTITY: self.request.identity,
            _REQUEST: json.dumps(self.request.members, sort_keys=True),
        }
        data = save({_FEATURES: part.features, _CRC32: part.crc32}, metadata)
        replace_file(self._file(rows), data)

    def _file(self, rows: range) -> Path:
        return self.path / f"{rows.start:08}.safetensors"

    def _same_images(self, rows: range, crc32: Tensor) -> bool:
        """Whether images at equal distances have the checksums that they had."""
        source = self.request.source
        return all(
            fingerprint(source.read(i))[0] == int(crc32[i - rows.start]) for i in _spread(rows)
        )


def _spread(rows: range) -> range:
    """At most 16 of these images, at equal distances."""
    return rows[:: max(1, -(-len(rows) // _READ_AGAIN))]


def replace_file(file: Path, data: bytes) -> None:
    """Make a file in the folder of features appear, or change, all at once.

    Raises:
        RunError: the disk is full or refuses.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, file)
    except OSError as error:
        with suppress(OSError):  # where nothing could be written, nothing is left
            temporary.unlink(missing_ok=True)
        raise RunError(
            f"out: {file.parent} cannot be written to: {os_reason(error)}; give another --out, or "
            "`--out null` to keep nothing"
        ) from error


def load_or_compute(
    request: FeatureRequest,
    folder: Path | None,
    *,
    device: torch.device,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Progress = lambda num_images: None,
) -> Tensor:
    """Features float32 (n, D) of the center crops of all images, in the order of the source.

    Parts that `folder` holds are read, the others are computed and written there. The network is
    in eval mode and on `device` afterwards.

    Args:
        request: whose features of which images.
        folder: of the features of any number of requests; None keeps nothing.
        device: where the network runs.
        batch_size: images in a forward pass.
        num_workers: threads that decode images; 0 decodes them when they are needed.
        progress: is told the number of further images that are done.

    Raises:
        ImageError: an image cannot be read.
        ConfigError: a feature is not finite.
        RunError: the features cannot be written.
    """
    cache = None if folder is None else FeatureCache(folder, request)
    count = len(request.source)
    parts = [
        range(first, min(first + IMAGES_PER_PART, count))
        for first in range(0, count, IMAGES_PER_PART)
    ]
    found = {rows: None if cache is None else cache.read(rows) for rows in parts}
    missing = [rows for rows, part in found.items() if part is None]
    progress(count - sum(map(len, missing)))
    batches = _batches(request, missing, batch_size, num_workers)
    network = request.network.to(device).eval()
    for rows in missing:
        part = _compute(request, network, rows, batches, device, progress)
        if cache is not None:
            cache.write(rows, part)
        found[rows] = part
    return torch.cat([part.features for part in found.values() if part is not None])


def compute_features(request: FeatureRequest, **options: Any) -> Tensor:
    """The features of `load_or_compute`, computed and not kept; takes the same options."""
    return load_or_compute(request, None, **options)


@torch.inference_mode()
def _compute(
    request: FeatureRequest,
    network: nn.Module,
    rows: range,
    batches: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    progress: Progress,
) -> Part:
    """The part of these images, which are the next ones of the batches."""
    features: list[Tensor] = []
    checksums: list[Tensor] = []
    while sum(map(len, features)) < len(rows):
        crops, crc32 = next(batches)
        normalized = request.preprocessing.normalize(crops.to(device, non_blocking=True))
        features.append(network(normalized).float().cpu())
        checksums.append(crc32)
        progress(len(crops))
    part = Part(torch.cat(features), torch.cat(checksums))
    bad = (~part.features.isfinite().all(1)).nonzero()
    if len(bad):
        raise ConfigError(
            f"the features of {request.source.name(rows[int(bad[0, 0])])} by {request.name} are "
            "not finite; its weights are those of a run that diverged, or do not belong to it"
        )
    return part


def _batches(
    request: FeatureRequest, parts: list[range], batch_size: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops uint8 (B, 3, S, S) and checksums (B,), built ahead; no batch crosses a part's end."""
    rows = [part[i : i + batch_size] for part in parts for i in range(0, len(part), batch_size)]
    return map_ahead(partial(_crops, request), rows, num_workers)


def _crops(request: FeatureRequest, rows: range) -> tuple[Tensor, Tensor]:
    loaded = [load(request.source, i) for i in rows]
    crops = torch.stack([center_crop(image.image, request.preprocessing) for image in loaded])
    checksums = torch.tensor([image.crc32 for image in loaded])
    return crops.contiguous(memory_format=torch.channels_last), checksums
