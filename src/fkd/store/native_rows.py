"""Rows of shards by the kernels of fkd.native: one pass for a whole batch. See `fkd.store.rows`.

The same functions as in `numpy_rows`, and the same results to the bit.
"""

import math
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fkd.codecs import dequantise
from fkd.native import library
from fkd.store.layout import Column
from fkd.store.memory import Memory
from fkd.store.row_layout import AS_INT64, RowLayout
from fkd.store.stored import Buffers

_COPY, _U16_TO_I64, _U32_TO_I64, _U16_TO_VALUE, _BIT_TO_BOOL = range(5)  # enum how in rows.c
_LINE = 64  # bytes; arrays in the output begin at multiples of it
_GATHER = (c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p)
_CHECKSUMS = (c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p)


class _Array(NamedTuple):
    """What a column becomes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    how: int


class _Plan(NamedTuple):
    """How to gather so many crops of so many images.

    Attributes:
        columns: int64 (columns, 5), struct column of rows.c.
        arrays: what each becomes.
        num_bytes: of all of them.
    """

    columns: np.ndarray
    arrays: Sequence[_Array]
    num_bytes: int


def available() -> bool:
    """Whether there are kernels."""
    return library() is not None


def gather(
    memory: Memory, layout: RowLayout, at: np.ndarray, crops: np.ndarray | None, value_dtype: str
) -> Buffers:
    """As `numpy_rows.gather`."""
    assert at.flags.c_contiguous
    num_rows, num_crops = at.shape[1], 0 if crops is None else crops.shape[1]
    plan = _plan(layout, num_rows, None if crops is None else num_crops, value_dtype)
    output = np.empty(plan.num_bytes, np.uint8)
    chosen = None if crops is None else np.ascontiguousarray(crops)
    _kernel("fkd_gather", _GATHER)(
        *(memory.address, at.ctypes.data, num_rows),
        *(None if chosen is None else chosen.ctypes.data, num_crops),
        *(plan.columns.ctypes.data, len(plan.arrays), _values().ctypes.data, output.ctypes.data),
    )
    buffers = {
        name: np.ndarray(shape, dtype, output, start)
        for name, shape, dtype, start, _ in plan.arrays
    }
    if "label.value" in buffers and buffers["label.value"].dtype != np.float32:
        buffers["label.value"] = dequantise(buffers["label.value"], value_dtype)
    return buffers


def checksums(memory: Memory, layout: RowLayout, at: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """As `numpy_rows.checksums`."""
    assert at.flags.c_contiguous
    pieces, variables = _sums(layout)
    ends = ends if len(ends) == len(variables) else np.ascontiguousarray(ends[layout.variable])
    found = np.empty(at.shape[1], np.uint32)
    _kernel("fkd_checksums", _CHECKSUMS)(
        *(memory.address, at.ctypes.data, at.shape[1]),
        *(pieces.ctypes.data, len(pieces), variables.ctypes.data, len(variables)),
        *(ends.ctypes.data, found.ctypes.data),
    )
    return found


@cache
def _kernel(name: str, argument_types: Sequence[Any]) -> Any:
    kernels = library(short_calls=True)
    assert kernels is not None
    function = kernels[name]
    function.restype, function.argtypes = None, argument_types
    return function


@lru_cache(maxsize=256)
def _plan(layout: RowLayout, num_rows: int, num_crops: int | None, value_dtype: str) -> _Plan:
    numbers = layout.of_images if num_crops is None else [*layout.of_images, *layout.of_crops]
    columns, arrays, start = [], [], 0
    for number in numbers:
        per_crop = number not in layout.of_images
        lead = (num_rows, num_crops) if per_crop else (num_rows,)
        array = _array(layout, number, lead, start, value_dtype)
        cell = layout.widths[number] * layout.columns[number].dtype.itemsize
        columns.append((number, cell, per_crop, array.how, start))
        arrays.append(array)
        num_bytes = math.prod(array.shape) * array.dtype.itemsize
        start += -(-num_bytes // _LINE) * _LINE
    return _Plan(np.array(columns, np.int64), arrays, start)


def _array(
    layout: RowLayout, number: int, lead: tuple[Any, ...], start: int, value_dtype: str
) -> _Array:
    column = layout.columns[number]
    how, dtype = _conversion(column, value_dtype)
    return _Array(column.name, (*lead, *layout.inner_shapes[number]), dtype, start, how)


def _conversion(column: Column, value_dtype: str) -> tuple[int, np.dtype]:
    """What becomes of the items of a column."""
    if column.name == "crop.flip":
        return _BIT_TO_BOOL, np.dtype(bool)
    if column.name == "label.value" and value_dtype == "u16":
        return _U16_TO_VALUE, np.dtype(np.float32)
    if column.name in AS_INT64:
        how = {2: _U16_TO_I64, 4: _U32_TO_I64, 8: _COPY}[column.dtype.itemsize]
        return how, np.dtype(np.int64)
    return _COPY, column.dtype


@cache
def _values() -> np.ndarray:
    """The value of every u16, float32 (65536,)."""
    return dequantise(np.arange(1 << 16, dtype=np.uint16), "u16")


@lru_cache(maxsize=256)
def _sums(layout: RowLayout) -> tuple[np.ndarray, np.ndarray]:
    """struct piece and struct variable of rows.c for the columns of a row."""
    variables = [layout.offsets_of(kind) for kind in layout.variable]
    return np.array(layout.summed, np.int64), np.array(variables, np.int64)
