"""Boxes and flips that a store does not keep, because they can be computed.

Those of a compact store are drawn again from its config and what it knows of the image's file:
CRC-32, length and decoded size. That another machine draws the same ones, to the last pixel, is
checked by `verify_store` against a checksum of each image's. Those of a label map are the cells of
its grid over the whole image.
"""

from typing import Any
from zlib import crc32

import numpy as np

from fkd.crops.sampling import (
    DRAWN_FROM,
    GENERATOR,
    CropConfig,
    content_streams,
    sample_boxes,
)
from fkd.errors import ConfigError, FormatError
from fkd.store.canonical import Fields


def draw_geometry(
    config: CropConfig,
    crc32: np.ndarray,
    num_bytes: np.ndarray,
    sizes: np.ndarray,
    crops: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int64 (B, m, 4) and flips bool (B, m) of crops of B images.

    Args:
        config: how crops are drawn.
        crc32: checksums of the encoded files (B,).
        num_bytes: their lengths (B,).
        sizes: height and width of the decoded images (B, 2).
        crops: crop numbers (B, m).
    """
    streams = content_streams(config.seed, crc32, num_bytes)
    with np.errstate(all="ignore"):  # sizes and ratios of a forged store may be anything
        return sample_boxes(config, streams, sizes, crops)


def crops_member(config: CropConfig) -> dict[str, Any]:
    """The member `crops` of a config; the inverse of `parse_crops`."""
    return {
        "generator": GENERATOR,
        "drawn_from": DRAWN_FROM,
        "scale": [float(x) for x in config.scale],
        "ratio": [float(x) for x in config.ratio],
        "flip_prob": float(config.flip_prob),
        "seed": config.seed,
    }


def parse_crops(value: Any, file: str) -> CropConfig:
    """How crops were drawn, from the member `crops` of a config.

    Raises:
        FormatError: it does not say, or names a generator that is not ours, or they were drawn
            from something else than the content of images.
    """
    fields = Fields(value, f"{file}: crops")
    fields.choice("generator", (GENERATOR,))
    if "drawn_from" not in fields:
        raise FormatError(
            f"{file}: crops were drawn from the keys of images, as fkd did at first, and this fkd "
            "draws them from the content of images; label again"
        )
    fields.choice("drawn_from", (DRAWN_FROM,))
    try:
        return CropConfig(
            scale=fields.pair("scale"),
            ratio=fields.pair("ratio"),
            flip_prob=fields.number("flip_prob"),
            seed=fields.integer("seed", -(1 << 63), (1 << 64) - 1),
        )
    except ConfigError as error:
        raise FormatError(f"{file}: {error}") from error


def grid_boxes(grid: tuple[int, int], sizes: np.ndarray) -> np.ndarray:
    """The pixels that each cell of a label map touches, row by row: int64 (B, cells, 4).

    Cells are fractions of the image; a box is rounded outwards, so that none is empty.

    Args:
        grid: rows and columns.
        sizes: height and width of the images, pixels, integers (B, 2).

    Example:
        >>> grid_boxes((1, 2), np.array([[10, 5]])).tolist()
        [[[0, 0, 10, 3], [0, 2, 10, 3]]]
    """
    rows, columns = grid
    top, height = _intervals(rows, sizes[:, :1])
    left, width = _intervals(columns, sizes[:, 1:])
    box = np.empty((len(sizes), rows, columns, 4), np.int64)
    box[..., 0], box[..., 2] = top[:, :, None], height[:, :, None]
    box[..., 1], box[..., 3] = left[:, None], width[:, None]
    return box.reshape(len(sizes), rows * columns, 4)


def _intervals(count: int, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length (B, count) of each part of sides of these lengths (B, 1)."""
    number, length = np.arange(count), length.astype(np.int64)
    start = number * length // count
    return start, -(-(number + 1) * length // count) - start


def geometry_crc32(box: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """CRC-32 of each image's boxes (B, M, 4) as u32, then its flips (B, M) as bits; uint32 (B,)."""
    boxes = np.ascontiguousarray(box, "<u4")
    flips = np.packbits(flip, axis=1, bitorder="little")
    pairs = zip(boxes, flips, strict=True)
    return np.array([crc32(bits, crc32(image_boxes)) for image_boxes, bits in pairs], np.uint32)
