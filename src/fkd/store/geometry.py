"""Boxes and flips that a store does not keep, because they can be computed.

Those of a compact store are drawn again from its config, the image's key and its size. That another
machine draws the same ones, to the last pixel, is checked by `verify_store` against a checksum of
each image's. Those of a label map are the cells of its grid over the whole image.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from fkd.crops.sampling import CropConfig, sample_boxes
from fkd.randomness import stream_keys


def draw_geometry(
    config: CropConfig, keys: Sequence[bytes], sizes: np.ndarray, crops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int64 (B, m, 4) and flips bool (B, m) of the crops (B, m) of images of sizes (B, 2)."""
    with np.errstate(all="ignore"):  # sizes and ratios of a forged store may be anything
        return sample_boxes(config, stream_keys(config.seed, keys), sizes, crops)


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
