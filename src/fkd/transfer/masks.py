"""Segmentations of COCO as masks: polygons, and run-length encodings.

A run-length encoding lists how many pixels are outside, inside, outside, ... in turn, column after
column. In a JSON file it is a list of numbers or, compressed, a text of five bits a letter.
"""

from itertools import accumulate
from typing import Any

import numpy as np

from fkd.errors import ConfigError

Polygons = tuple[np.ndarray, ...]
RunLengths = list[int]
Segmentation = Polygons | RunLengths
"""What a mask is made from: polygons x0, y0, x1, y1, ... in pixels, or run lengths."""

_LEAST_NUMBERS = 6  # three corners
_LARGEST = 1e6  # pixels from the origin; a corner beyond it is a mistake, and overflows


def parse_segmentation(value: Any, height: int, width: int) -> Segmentation:
    """The segmentation of an annotation, checked.

    Args:
        value: the member "segmentation".
        height, width: of its image, pixels.

    Raises:
        ValueError: it is none; says why, as the end of a sentence about the annotation.
    """
    if isinstance(value, dict):
        return _parse_run_lengths(value, height, width)
    if value is None or value == []:
        raise ValueError("has no segmentation, which masks are made from; use task detection")
    if not isinstance(value, list):
        raise ValueError(f"has a segmentation of type {type(value).__name__}")
    return tuple(_parse_polygon(polygon) for polygon in value)


def make_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """The pixels of a segmentation, uint8 (height, width), 1 inside and 0 outside."""
    from faster_coco_eval.core import mask

    if isinstance(segmentation, list):
        encoded = mask.frPyObjects({"size": [height, width], "counts": segmentation}, height, width)
    else:
        polygons = [polygon.tolist() for polygon in segmentation]
        encoded = mask.merge(mask.frPyObjects(polygons, height, width))
    pixels: np.ndarray = mask.decode(encoded)
    return np.ascontiguousarray(pixels)


def require_mask_library() -> None:
    """Refuse to go on without what makes and compares masks.

    Raises:
        ConfigError: names the package and the extra.
    """
    try:
        import faster_coco_eval.core.mask  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "fkd transfer needs faster-coco-eval for masks and average precision; install it with "
            'pip install "fkd[coco]"'
        ) from error


def _parse_polygon(value: Any) -> np.ndarray:
    try:
        polygon = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("has a polygon that is no list of numbers") from error
    if polygon.ndim != 1 or len(polygon) < _LEAST_NUMBERS or len(polygon) % 2:
        raise ValueError(
            f"has a polygon of {polygon.size} numbers; it is x0, y0, x1, y1, ... of three or more "
            "corners"
        )
    if not np.all(np.abs(polygon) < _LARGEST):  # NaN is refused, too
        raise ValueError("has a polygon with a corner far outside of every image")
    return polygon


def _parse_run_lengths(value: dict[str, Any], height: int, width: int) -> RunLengths:
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        raise ValueError(
            f"has a segmentation of the size {size}, but its image has [{height}, {width}] "
            "(height, width)"
        )
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("has a segmentation whose counts are no whole numbers, and no text")
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(
            f"has a segmentation whose counts do not add up to the {height * width:,} pixels of "
            "its image"
        )
    return counts


def _decompress(text: str) -> RunLengths:
    """Run lengths from letters of five bits, lowest first; 32 says that more follow.

    From the fourth on, each is the difference to the one two places before.
    """
    numbers: RunLengths = []
    number = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError("has a segmentation whose counts are damaged")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            numbers.append(number - (1 << shift) if bits & 16 else number)
            number = shift = 0
    if shift:
        raise ValueError("has a segmentation whose counts are cut short")
    for start in (1, 2):
        numbers[start::2] = accumulate(numbers[start::2])
    return numbers
