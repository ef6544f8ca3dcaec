"""Label files of the official FKD code, one for each image.

    ROOT/train/n01440764/n01440764_10026.tar      a list by torch.save, no tar archive
        coords   (M, 4) float32 or float16: top / H, left / W, height / H, width / W
        flip     (M,) bool
        label    hard       (M,) whole numbers
                 smoothing  (M, 2): class, p
                 top K      (M, 2, K): classes, then p, largest first
                 full       (M, C)

The files say neither the teacher, nor the order of the classes, nor whether the rest of a top-K
label is spread (ms:K) or dropped (mr:K). The layout is that of szq0214/FKD; MEAL V2's root is one
level higher. H and W are those of the image as Pillow decodes it, without regard to EXIF
orientation.
"""

from typing import Any

import numpy as np

from fkd.errors import ConfigError, FormatError
from fkd.labeling.foreign.crops import (
    ForeignCrops,
    largest_first,
    require_classes,
    require_inside,
    require_probabilities,
)
from fkd.labeling.foreign.pickles import read_foreign
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import Codec
from fkd.labels.encoded import Encoded

SUFFIX = ".tar"
LEVELS = ("", "train", "imagenet/train")
"""Folders below the root in which the class folders may lie."""

_EXACT_SIDE = 2048
"""Pixels of the longest side up to which a half float gives the box."""

_LARGEST_HALF_ID = 2048
_OFF = 0.02  # pixels by which a float32 box may miss whole pixels


def read_official(data: bytes, path: str, num_classes: int, codec: Codec | None) -> ForeignCrops:
    """The labels of one image.

    Args:
        data: the file.
        path: of the file, for messages.
        num_classes: C.
        codec: which codec the labels have; None for what their shape says, with ms:K for top K.

    Raises:
        FormatError: the file is none of these, or its values are impossible.
        ConfigError: its labels have another codec.
    """
    content = read_foreign(data, path)
    is_triple = isinstance(content, list) and len(content) == 3
    if not is_triple or not all(isinstance(part, np.ndarray) for part in content):
        raise FormatError(f"{path}: it holds no list of boxes, flips and labels")
    coords, flip, label = content
    if coords.shape != (len(flip), 4) or coords.dtype.kind != "f" or flip.dtype.kind != "b":
        raise FormatError(
            f"{path}: its boxes have shape {coords.shape} and its flips {flip.shape}; expected are "
            "(M, 4) and (M,)"
        )
    if flip.ndim != 1 or not len(flip) or label.shape[:1] != flip.shape:
        raise FormatError(f"{path}: it has {len(flip)} crops and labels of shape {label.shape}")
    found, encoded = _labels(label, path, num_classes, codec)
    is_half = coords.dtype.itemsize == 2

    def boxes(size: tuple[int, int]) -> np.ndarray:
        return _boxes(coords, size, path)

    return ForeignCrops(path, boxes, flip, found, encoded, is_half)


def may_be_off(crops: ForeignCrops, size: tuple[int, int]) -> bool:
    """Whether the boxes of an image of this size may be a pixel off, for they are half floats."""
    return crops.is_half and max(size) > _EXACT_SIDE


def _boxes(coords: np.ndarray, size: tuple[int, int], path: str) -> np.ndarray:
    """Pixels, each number rounded by itself: exact for float32.

    Boxes in half floats may reach a pixel beyond the image; they are moved back.
    """
    height, width = size
    exact = coords.astype(np.float64) * np.array([height, width, height, width])
    if not (np.abs(exact) <= 1 << 24).all():  # False for NaN
        raise FormatError(f"{path}: a crop box is no share of an image")
    boxes = np.round(exact).astype(np.int64)
    if coords.dtype.itemsize == 2:
        sides = np.array(size)
        boxes[:, 2:] = boxes[:, 2:].clip(1, sides)
        excess = boxes[:, :2] + boxes[:, 2:] - sides
        boxes[:, :2] -= np.where(excess == 1, 1, 0)
    elif (np.abs(exact - boxes) > _OFF).any():
        raise FormatError(
            f"{path}: its crop boxes are no whole pixels of an image of {height}x{width} pixels; "
            "these labels belong to another file of that name, or to one of another size"
        )
    return require_inside(boxes, size, path)


def _labels(
    label: np.ndarray, path: str, num_classes: int, codec: Codec | None
) -> tuple[Codec, Encoded]:
    """The codec that the shape of the labels says, and the labels by it."""
    kinds = list(_kinds_of(label, num_classes))
    names = [kind for kind in kinds if codec is None or kind == codec.name]
    if not names:
        said = f"codec {codec.name}" if codec is not None and kinds else "a codec"
        raise ConfigError(
            f"{path}: labels of shape {label.shape} and {num_classes} classes are not of {said}"
            + (f"; they may be {' or '.join(kinds)}" if kinds else "")
        )
    if "full" in names and len(names) > 1:
        raise ConfigError(f"{path}: its labels may be {' or '.join(names)}; choose by --codec")
    found = parse_codec(names[0])
    if found.name == "full":
        return found, Encoded(None, require_probabilities(label, path))
    if found.name == "hard":
        return found, Encoded(require_classes(label[:, None], num_classes, path), None)
    pairs = label[:, :, None] if found.name == "smoothing" else label
    if label.dtype.itemsize == 2 and num_classes > _LARGEST_HALF_ID + 1:
        raise FormatError(
            f"{path}: class ids in half floats are exact only up to {_LARGEST_HALF_ID:,}, and "
            f"there are {num_classes:,} classes; get the labels in float32"
        )
    ids = require_classes(pairs[:, 0], num_classes, path)
    return found, largest_first(ids, require_probabilities(pairs[:, 1], path))


def _kinds_of(label: np.ndarray, num_classes: int) -> Any:
    """Codecs that labels of this shape may have, the most usual first."""
    if label.ndim == 1 and label.dtype.kind in "iu":
        yield "hard"
    if label.dtype.kind != "f":
        return
    if label.ndim == 2 and label.shape[1] == 2:
        yield "smoothing"
    if label.ndim == 2 and label.shape[1] == num_classes:
        yield "full"
    if label.ndim == 3 and label.shape[1] == 2 and 0 < label.shape[2] < num_classes:
        yield f"ms:{label.shape[2]}"
        yield f"mr:{label.shape[2]}"
