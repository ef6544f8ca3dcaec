"""Canaries: pixels of a few crops as the teacher saw them, to check that training cuts the same.

A canary is one crop of a store (of label maps, a whole image): the SHA-256 of the pixels that
entered the teacher, and a thumbnail of them. Rebuilding it needs the image and the record, but no
teacher. Another image, decoder, orientation, box, flip or resampling is found.
"""

import hashlib
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fkd.crops.replay import InputSpec, Interpolation, replay, whole_image
from fkd.data.decode import DECODER, Decoder
from fkd.data.identity import find_image, load_labeled
from fkd.data.sources import ImageSource
from fkd.errors import CropMismatch, FormatError
from fkd.randomness import Purpose, stream_key, uniforms
from fkd.store import LABELED, LabelStore
from fkd.store.provenance import Canary, Libraries

# A canary takes 370 bytes of the manifest, so a small store gets few.
_MOST, _LEAST, _CROPS_PER_CANARY = 64, 4, 1024
_SIDE = 8  # pixels of a thumbnail's side
_THUMBNAIL_BYTES = _SIDE * _SIDE * 3
_LIMIT = 2.0  # gray levels by which thumbnails of other decoders may differ on average


@dataclass(frozen=True)
class CanaryReport:
    """How the canaries of a store compare with crops cut here.

    Attributes:
        num: canaries compared.
        num_exact: canaries whose pixels are the same to the bit.
        mean_difference: mean over all thumbnails of their absolute difference, gray levels.
        same_libraries: whether decoder, torch and type of CPU are those that made the store.
    """

    num: int
    num_exact: int
    mean_difference: float
    same_libraries: bool

    def __str__(self) -> str:
        libraries = "same" if self.same_libraries else "other"
        return (
            f"{self.num_exact} of {self.num} crops have exactly the teacher's pixels, "
            f"mean difference {self.mean_difference:.2f} gray levels ({libraries} libraries)"
        )


def sample_positions(
    seed: int, purpose: str, count: int, num_images: int, num_crops: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and crop numbers, int64 (count,) each: spread evenly over the images, at random inside.

    With `count` at most `num_images`, no image comes twice.
    """
    stream = stream_key(seed, purpose.encode())
    draws = uniforms(stream, Purpose.PROBE, np.arange(count), 2)
    rows = np.floor((np.arange(count) + draws[:, 0]) * num_images / count).astype(np.int64)
    crops = np.floor(draws[:, 1] * num_crops).astype(np.int64)
    return np.minimum(rows, num_images - 1), crops


def count_canaries(num_images: int, num_crops: int) -> int:
    """How many canaries a store of that many images and crops per image gets."""
    return min(num_images, _MOST, max(_LEAST, num_images * num_crops // _CROPS_PER_CANARY))


def make_canaries(
    store: LabelStore, source: ImageSource, count: int | None = None
) -> tuple[Canary, ...]:
    """Canaries for the manifest of a store, whose shards are all there.

    Args:
        store: holds the records.
        source: the images that were labeled.
        count: how many, by default `count_canaries`; fewer where images are unreadable.

    Raises:
        CropMismatch: an image was changed since it was labeled.
        ImageError: it cannot be read any more.
    """
    num_crops = store.num_crops if store.grid is None else 1
    count = count or count_canaries(store.num_images, num_crops)
    rows, crops = sample_positions(0, "canary", count, store.num_images, num_crops)
    readable = store.images(rows).status == LABELED
    return tuple(
        Canary(row, crop, *_fingerprint(_rebuild(store, source, row, crop)))
        for row, crop in zip(rows[readable].tolist(), crops[readable].tolist(), strict=True)
    )


def check_canaries(
    store: LabelStore,
    source: ImageSource,
    decoder: Decoder = "pillow",
    *,
    among: np.ndarray | None = None,
) -> CanaryReport:
    """Rebuild the canaries of a store from these images and compare.

    With the libraries that made the store the pixels must be the same to the bit; with others, and
    with another decoder, the thumbnails may differ by 2 gray levels on average.

    Args:
        store: the labels.
        source: the images.
        decoder: of the images.
        among: rows whose canaries are compared, such as those of `join_store`; by default all.

    Raises:
        CropMismatch: a crop looks different, or an image is not the one that was labeled.
        FormatError: the store does not say what its teacher saw.
        StoreMismatch: the images are not those of the store.
        ImageError: an image cannot be read.
    """
    here = Libraries(version("torch"), cpu_name())
    same_libraries = (
        decoder == "pillow" and store.provenance.decoder == DECODER and store.libraries == here
    )
    differences, num_exact = [], 0
    for canary in _canaries_of(store, among):
        if len(canary.thumbnail) != _THUMBNAIL_BYTES:
            raise FormatError(
                f"{store.path} has a canary whose thumbnail has {len(canary.thumbnail)} bytes, not "
                f"{_THUMBNAIL_BYTES}; get the store again"
            )
        sha256, thumbnail = _fingerprint(_rebuild(store, source, canary.row, canary.crop, decoder))
        exact = sha256 == canary.sha256
        difference = 0.0 if exact else _difference(thumbnail, canary.thumbnail)
        if not exact and (same_libraries or difference > _LIMIT):
            position = find_image(source, store.keys([canary.row])[0])
            assert position is not None  # it was just loaded
            raise CropMismatch(
                f"crop {canary.crop} of {source.name(position)} differs from what the "
                f"teacher saw (thumbnails differ by {difference:.1f} gray levels); the store was "
                "made by another version of fkd or its libraries, label again"
            )
        differences.append(difference)
        num_exact += exact
    mean = float(np.mean(differences)) if differences else 0.0
    return CanaryReport(len(differences), num_exact, mean, same_libraries)


def _canaries_of(store: LabelStore, among: np.ndarray | None) -> list[Canary]:
    """The canaries of these rows; of all by default."""
    if among is None:
        return list(store.canaries)
    there = np.isin([canary.row for canary in store.canaries], among).tolist()
    return [canary for canary, is_there in zip(store.canaries, there, strict=True) if is_there]


def describe_missing_canaries(store: LabelStore, among: np.ndarray | None = None) -> str:
    """What to say where no canary of these rows can be compared, one sentence; "" where one can."""
    if _canaries_of(store, among):
        return ""
    if store.canaries or store.is_partial:
        return (
            f"none of the canaries of {store.path} is of an image that is there, so it cannot be "
            "checked that crops are cut here as its teacher saw them"
        )
    return (
        f"{store.path} has no canaries, so it cannot be checked that crops are cut here as its "
        "teacher saw them; `fkd verify` with images and teacher labels some again"
    )


def cpu_name() -> str:
    """The type of CPU, as far as torch chooses its routines by it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def teacher_input(store: LabelStore) -> InputSpec:
    """The input of the first teacher of a store.

    Raises:
        FormatError: the store does not say.
    """
    for teacher in store.provenance.teachers[:1]:
        if teacher.input_size is not None and teacher.interpolation is not None:
            return InputSpec(teacher.input_size, cast("Interpolation", teacher.interpolation))
    raise FormatError(
        f"{store.path} does not say which input its teacher takes (input_size and interpolation of "
        "the first of `teachers` in config.json); get the store again, or label again"
    )


def _rebuild(
    store: LabelStore, source: ImageSource, row: int, crop: int, decoder: Decoder = "pillow"
) -> Tensor:
    """One crop as it enters the first teacher, uint8 (3, S, S)."""
    image = load_labeled(store, source, row, decoder)
    if store.grid is None:
        records = store.read([row], [[crop]]).records[0]
    else:
        records = whole_image((image.shape[1], image.shape[2]))
    size, interpolation, _ = teacher_input(store)
    return replay(image, records, size, interpolation)[0]


def _fingerprint(crop: Tensor) -> tuple[str, bytes]:
    """SHA-256 of the pixels, and their thumbnail."""
    pixels = crop.permute(1, 2, 0).contiguous().numpy().tobytes()
    small = F.adaptive_avg_pool2d(crop.float(), _SIDE).round().to(torch.uint8)
    thumbnail = small.permute(1, 2, 0).contiguous().numpy().tobytes()
    return hashlib.sha256(pixels).hexdigest(), thumbnail


def _difference(a: bytes, b: bytes) -> float:
    """Mean absolute difference of two thumbnails, gray levels."""
    left, right = (np.frombuffer(thumbnail, np.uint8).astype(np.int16) for thumbnail in (a, b))
    return float(np.abs(left - right).mean())
