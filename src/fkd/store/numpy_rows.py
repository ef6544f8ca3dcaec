"""Rows of shards by numpy: one indexed read a column for a whole batch. See `fkd.store.rows`."""

from collections.abc import Sequence
from itertools import groupby
from zlib import crc32

import numpy as np

from fkd.labels.quantization import dequantize
from fkd.store.memory import Memory
from fkd.store.row_layout import AS_INT64, RowLayout
from fkd.store.stored import Buffers

_SMALL = 64  # bytes: shorter columns are copied side by side, to be summed up in one call


def gather(
    memory: Memory, layout: RowLayout, at: np.ndarray, crops: np.ndarray | None, value_dtype: str
) -> Buffers:
    """Copies of rows, by the names of the columns: see `fkd.store.rows.Rows.read`.

    Args:
        memory: holds the shards.
        layout: of their columns.
        at: the byte at which each row begins in each column, int64 (columns, B).
        crops: (B, m), which crops of each; None for the image.* columns alone.
        value_dtype: how values are stored.
    """
    buffers: Buffers = {}
    for number in layout.of_images:
        first = at[number] // layout.columns[number].dtype.itemsize
        items = first[:, None] + np.arange(layout.widths[number])
        buffers[layout.columns[number].name] = _take(memory, layout, number, items)
    if crops is None:
        return buffers
    steps: dict[int, np.ndarray] = {}  # items from the first of a row to those of its crops
    for number in layout.of_crops:
        column, width = layout.columns[number], layout.widths[number]
        first = at[number][:, None, None] // column.dtype.itemsize
        if column.name == "crop.flip":
            stored = _take(memory, layout, number, first + (crops >> 3)[:, :, None])
            buffers[column.name] = stored >> (crops & 7).astype(np.uint8) & 1 != 0
            continue
        if width not in steps:
            steps[width] = crops[:, :, None] * width + np.arange(width)
        taken = _take(memory, layout, number, first + steps[width])
        is_value = column.name == "label.value"
        buffers[column.name] = dequantize(taken, value_dtype) if is_value else taken
    return buffers


def _take(memory: Memory, layout: RowLayout, number: int, items: np.ndarray) -> np.ndarray:
    """Copy these items (..., width) of a column, in the column's own shape."""
    column = layout.columns[number]
    taken = memory.items(column.dtype.itemsize).take(items, mode="clip").view(column.dtype)
    shaped = taken.reshape(items.shape[:-1] + layout.inner_shapes[number])
    target = np.int64 if column.name in AS_INT64 else column.dtype.newbyteorder("=")
    copied: np.ndarray = shaped.astype(target, copy=False)
    return copied


def checksums(memory: Memory, layout: RowLayout, at: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """CRC-32 of each row, uint32 (B,); where a checked read spends its time without a kernel.

    Args:
        memory, layout, at: as for `gather`.
        ends: where the columns of `VARIABLE` end, int64 (2, B).
    """
    parts = []
    for short, group in groupby(layout.summed, key=lambda column: column[1] <= _SMALL):
        if short:
            parts.append(_side_by_side(memory, at, list(group)))
            continue
        for number, length in group:
            starts = at[number].tolist()
            parts.append([memory.data[first : first + length] for first in starts])
    for kind in layout.variable:
        start, stop = ranges(memory, layout, at, ends, kind)
        edges = zip(start.tolist(), stop.tolist(), strict=True)
        parts.append([memory.data[first:last] for first, last in edges])
    # To copy a row together and call crc32 once takes less than a call for each of its parts.
    return np.array([crc32(b"".join(row)) for row in zip(*parts, strict=True)], np.uint32)


def _side_by_side(
    memory: Memory, at: np.ndarray, columns: Sequence[tuple[int, int]]
) -> list[memoryview]:
    """Short neighboring columns of each row: (number, bytes of a row) each."""
    numbers, lengths = zip(*columns, strict=True)
    offset = np.concatenate([np.arange(length) for length in lengths])
    small = memory.items(1)[at[np.repeat(numbers, lengths)].T + offset]
    data, length = memoryview(small.reshape(-1)), len(offset)
    return [data[first : first + length] for first in range(0, small.size, length)]


def ranges(
    memory: Memory, layout: RowLayout, at: np.ndarray, ends: np.ndarray, kind: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each key or packed record begins and ends in the memory; within its column."""
    of_bytes, of_offsets, item_bytes = layout.offsets_of(kind)
    entries = at[of_offsets] // item_bytes
    offsets = memory.items(item_bytes)[entries + np.arange(2)[:, None]].astype(np.int64)
    start, stop = np.clip(at[of_bytes] + offsets, at[of_bytes], ends[kind])
    return start, stop
