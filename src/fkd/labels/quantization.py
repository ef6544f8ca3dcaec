"""How a value becomes 1, 2 or 4 bytes."""

from functools import cache
from typing import Literal

import numpy as np

ValueDtype = Literal["u16", "f16", "f32", "i8"]

VALUE_DTYPES: dict[str, np.dtype] = {
    "u16": np.dtype("<u2"),
    "f16": np.dtype("<f2"),
    "f32": np.dtype("<f4"),
    "i8": np.dtype("|i1"),
}
SCALED = "i8"  # has a scale per row, see `quantize_rows`
SCALE_DTYPE = np.dtype("<f4")
LARGEST_VALUE = {"f16": 65504.0, "f32": float(np.finfo(np.float32).max)}
LARGEST_VALUE[SCALED] = LARGEST_VALUE["f32"]
_LEVELS = 65535.0
_STEPS = 127
_NUMBERS_AT_ONCE = 1 << 20  # a shard of long rows has gigabytes, and float64 twice as many
_UNUSED = 127  # the lowest 7 bits of a scale are 0, so that 127 times it is exact in float32


def quantize(value: np.ndarray, value_dtype: str) -> np.ndarray:
    """Values as they are stored without a scale; "u16" is for probabilities only.

    "u16" stores x = stored / 65535 with p = 17 x^2 / (16 x + 1): spaced like square roots below
    about 1 %, evenly above. It is never off by more than 8.2e-6 and keeps probabilities down to
    1e-9, where even spacing ends at 8e-6 and half floats lose the tail of confident labels.
    """
    if value_dtype != "u16":
        return value.astype(VALUE_DTYPES[value_dtype])
    p = np.clip(value.astype(np.float64), 0.0, 1.0)
    x = (8.0 * p + np.sqrt(64.0 * p * p + 17.0 * p)) / 17.0
    return np.rint(x * _LEVELS).astype(VALUE_DTYPES["u16"])


def dequantize(stored: np.ndarray, value_dtype: str) -> np.ndarray:
    """Stored values as float32."""
    if value_dtype != "u16":
        return stored.astype(np.float32)
    return _u16_values().take(stored)


def quantize_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite values (..., V) as whole numbers from -127 to 127 with a scale per row ("i8").

    The scale is the largest size in the row / 127, rounded up to a float32 of 17 bits. No value is
    off by more than half the scale s, so the softmax moves by a KL divergence of at most s^2 / 8,
    which is below 1e-3 wherever no value is beyond 11. Values that were read are stored again as
    the same numbers, if one is above 1e-38.

    Returns:
        int8 (..., V) and the scales, float32 (...); 0 for a row of zeros.
    """
    rows = values.reshape(-1, values.shape[-1])
    stored, scale = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    step = max(1, _NUMBERS_AT_ONCE // max(1, rows.shape[1]))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        stored[part], scale[part] = _quantize_few(rows[part].astype(np.float64))
    return stored.reshape(values.shape), scale.reshape(values.shape[:-1])


def _quantize_few(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`quantize_rows` of float64 (n, V)."""
    exact = np.abs(rows).max(axis=1, initial=0.0) / _STEPS
    bits = (exact.astype(np.float32).view(np.int32) + _UNUSED) & ~_UNUSED
    scale = np.minimum(bits.view(np.float32), _largest_scale())
    steps = np.rint(rows / np.where(scale == 0, 1.0, scale)[:, None])
    return steps.clip(-_STEPS, _STEPS).astype(np.int8), scale


def dequantize_rows(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Values float32 (..., V) of whole numbers int8 (..., V) and scales (...); exact.

    Raises:
        ValueError: a scale, or a number, is none that `quantize_rows` returns.
    """
    scale = scale.astype(np.float32)
    # Written so that a NaN fails too.
    if not ((scale >= 0) & (scale <= _largest_scale())).all():
        raise ValueError("the scale of a label is negative, NaN or too large")
    if stored.min(initial=0) < -_STEPS:
        raise ValueError(f"a stored value is below -{_STEPS}")
    values: np.ndarray = stored * scale[..., None]
    return values


@cache
def _largest_scale() -> np.float32:
    """The largest scale whose product with 127 is finite."""
    bits = np.array([LARGEST_VALUE["f32"] / _STEPS], np.float32).view(np.int32)
    return np.float32((bits & ~_UNUSED).view(np.float32)[0])


@cache
def _u16_values() -> np.ndarray:
    """The value of each of the 65,536 numbers that can be stored, float32."""
    x = np.arange(_LEVELS + 1.0) / _LEVELS
    return (17.0 * x * x / (16.0 * x + 1.0)).astype(np.float32)
