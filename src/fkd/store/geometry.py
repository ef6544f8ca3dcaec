"""Boxes and flips that a compact store does not keep, because they can be drawn again.

They follow from the store's config, the image's key and its size. That another machine draws the
same ones, to the last pixel, is checked by `verify_store` against a checksum of each image's.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from fkd.randomness import stream_keys
from fkd.sampling import CropConfig, sample_boxes


def draw_geometry(
    config: CropConfig, keys: Sequence[bytes], sizes: np.ndarray, crops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int64 (B, m, 4) and flips bool (B, m) of the crops (B, m) of images of sizes (B, 2)."""
    with np.errstate(all="ignore"):  # sizes and ratios of a forged store may be anything
        return sample_boxes(config, stream_keys(config.seed, keys), sizes, crops)


def geometry_crc32(box: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """CRC-32 of each image's boxes (B, M, 4) as u32, then its flips (B, M) as bits; uint32 (B,)."""
    boxes = np.ascontiguousarray(box, "<u4")
    flips = np.packbits(flip, axis=1, bitorder="little")
    pairs = zip(boxes, flips, strict=True)
    return np.array([crc32(bits, crc32(own)) for own, bits in pairs], np.uint32)
