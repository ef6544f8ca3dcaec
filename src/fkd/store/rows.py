"""Rows of shards in memory: gathered by index, whichever shards they lie in, and checked.

A shard stores columns, so the bytes of one image's row lie apart. `Rows` knows where each column of
each shard begins in one block of memory: reading a batch costs a few indexed reads, and nothing per
crop in Python.

The checksum of a row runs over its bytes in every column in the order of the file (largest items
first, then by name), which puts the bytes of the key last, and in a compact store those of the
packed record behind them. record.crc32 itself is left out; key.offset counts with the two entries
around the key (and so does record.offset), so rows overlap there:

    key.offset      | 0 | 7 | 15 | ...
    row 0             ^---^
    row 1                 ^----^
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from zlib import crc32

import numpy as np

from fkd.store.compact import PackedRecords, unpack_records
from fkd.store.config import StoreConfig
from fkd.store.geometry import draw_geometry, grid_boxes
from fkd.store.layout import Column, Placed, columns_of
from fkd.store.stored import Buffers

Chosen = slice | np.ndarray  # positions in a batch
_SMALL = 64  # bytes: shorter columns are copied side by side, to be summed up in one call
_AS_INT64 = {"image.bytes", "image.size", "crop.box", "label.index"}
_PER_CROP = ("crop.", "label.")
_CHECKSUM = "record.crc32"
_KEYS, _RECORDS = 0, 1  # columns whose rows have different lengths; each has its offsets
_VARIABLE = (("key.bytes", "key.offset"), ("record.bytes", "record.offset"))


class Rows:
    """Rows of the shards of a store; a row is named by its shard's place and its number there.

    Args:
        config: says which columns there are.
        memory: holds the shards, each beginning at a multiple of 8 bytes.
        num_places: shards that there may be; `add` announces them.
    """

    def __init__(self, config: StoreConfig, memory: memoryview, num_places: int) -> None:
        self._config = config
        self._memory = memory
        self._views: dict[int, np.ndarray] = {}
        self._layouts = [_Layout(columns_of(config, wide_boxes)) for wide_boxes in (False, True)]
        self._wide = np.zeros(num_places, bool)
        self._starts = np.zeros((len(self._layouts[0].columns), num_places), np.int64)
        self._ends = np.zeros((len(_VARIABLE), num_places), np.int64)

    def add(self, place: int, start: int, placed: Mapping[str, Placed]) -> None:
        """Announce the shard at `place`, whose columns begin at byte `start` of the memory."""
        wide = "crop.box" in placed and placed["crop.box"].dtype.itemsize == 4
        columns = self._layouts[wide].columns
        self._starts[:, place] = [start + placed[column.name].start for column in columns]
        for kind, (name, _) in enumerate(_VARIABLE):
            self._ends[kind, place] = start + placed[name].stop if name in placed else 0
        self._wide[place] = wide

    def read(self, places: np.ndarray, rows: np.ndarray, crops: np.ndarray | None) -> Buffers:
        """Copies of some rows, by the names of the columns.

        Args:
            places: (B,), which shard each row is in.
            rows: (B,), which row of it.
            crops: (B, m), which crops of each, or None for the image.* columns alone. Of crop.flip
                the byte of each crop is given.

        Of a compact store the crops come unpacked, by the names that a plain one has: crop.flip as
        bool, label.value as float32; zeros for images without labels. Of label maps crop.box and
        crop.flip (bool) are computed.

        Raises:
            FormatError: a packed record is malformed.
        """
        parts = []
        for layout, chosen in self._by_layout(places):
            at = self._at(layout, places[chosen], rows[chosen])
            buffers = self._read(layout, at, None if crops is None else crops[chosen])
            if crops is not None and self._config.compact:
                buffers |= self._unpack(layout, at, places, buffers, crops)
            elif crops is not None and self._config.grid is not None:
                boxes = grid_boxes(self._config.grid, buffers["image.size"])
                buffers["crop.box"] = np.take_along_axis(boxes, crops[chosen][..., None], axis=1)
                buffers["crop.flip"] = np.zeros(crops[chosen].shape, bool)
            parts.append((chosen, buffers))
        return parts[0][1] if len(parts) == 1 else _merge(parts)

    def damaged(self, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Positions of the rows that differ from their checksums, int64."""
        differ = np.zeros(len(rows), bool)
        for layout, chosen in self._by_layout(places):
            at = self._at(layout, places[chosen], rows[chosen])
            stored = self._view(4)[at[layout.number_of[_CHECKSUM]] >> 2]
            differ[chosen] = stored != self._checksums(layout, at, places[chosen])
        return np.flatnonzero(differ)

    def checksums(self, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The CRC-32 of the bytes of each row, uint32 (B,)."""
        found = np.empty(len(rows), np.uint32)
        for layout, chosen in self._by_layout(places):
            at = self._at(layout, places[chosen], rows[chosen])
            found[chosen] = self._checksums(layout, at, places[chosen])
        return found

    def _by_layout(self, places: np.ndarray) -> Iterator[tuple["_Layout", Chosen]]:
        """The rows with narrow boxes, and those with wide ones; mostly there is one kind."""
        wide = self._wide[places]
        if wide.any() and not wide.all():
            for layout, kind in zip(self._layouts, (~wide, wide), strict=True):
                yield layout, np.flatnonzero(kind)
        else:
            yield self._layouts[bool(wide.any())], slice(None)

    def _at(self, layout: "_Layout", places: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The byte at which each row begins in each column, int64 (columns, B)."""
        at: np.ndarray = self._starts[:, places]
        at += layout.row_bytes[:, None] * rows
        return at

    def _view(self, item_bytes: int) -> np.ndarray:
        """The memory as unsigned integers of this size."""
        if item_bytes not in self._views:
            count = len(self._memory) // item_bytes
            self._views[item_bytes] = np.frombuffer(self._memory, f"<u{item_bytes}", count)
        return self._views[item_bytes]

    def _read(self, layout: "_Layout", at: np.ndarray, crops: np.ndarray | None) -> Buffers:
        buffers: Buffers = {}
        for number in layout.of_images:
            first = at[number] // layout.columns[number].dtype.itemsize
            self._take(buffers, layout, number, first[:, None] + np.arange(layout.widths[number]))
        if crops is None:
            return buffers
        steps: dict[int, np.ndarray] = {}  # items from the first of a row to those of its crops
        for number in layout.of_crops:
            column, width = layout.columns[number], layout.widths[number]
            first = at[number] // column.dtype.itemsize
            if column.name == "crop.flip":
                items = first[:, None, None] + (crops >> 3)[:, :, None]
            else:
                if width not in steps:
                    steps[width] = crops[:, :, None] * width + np.arange(width)
                items = first[:, None, None] + steps[width]
            self._take(buffers, layout, number, items)
        return buffers

    def _take(self, buffers: Buffers, layout: "_Layout", number: int, items: np.ndarray) -> None:
        """Copy these items (..., width) of a column to its buffer, with the column's own shape."""
        column = layout.columns[number]
        taken = self._view(column.dtype.itemsize).take(items, mode="clip").view(column.dtype)
        shaped = taken.reshape(items.shape[:-1] + layout.inner_shapes[number])
        target = np.int64 if column.name in _AS_INT64 else column.dtype.newbyteorder("=")
        buffers[column.name] = shaped.astype(target, copy=False)

    def _checksums(self, layout: "_Layout", at: np.ndarray, places: np.ndarray) -> np.ndarray:
        """CRC-32 of the rows beginning at these bytes; where a checked read spends its time."""
        memory, parts = self._memory, []
        for piece in layout.pieces:
            if piece.bytes_of is None:
                block, starts = memory, at[piece.number].tolist()
            else:
                number, offset = piece.bytes_of
                small = self._view(1)[at[number].T + offset]
                block, starts = memoryview(small.reshape(-1)), range(0, small.size, piece.length)
            length = piece.length
            parts.append([block[first : first + length] for first in starts])
        for kind in layout.variable:
            starts, stops = (ends.tolist() for ends in self._ranges(layout, at, places, kind))
            parts.append([memory[a:b] for a, b in zip(starts, stops, strict=True)])
        # To copy a row together and call crc32 once takes less than a call for each of its parts.
        return np.array([crc32(b"".join(row)) for row in zip(*parts, strict=True)], np.uint32)

    def _ranges(
        self, layout: "_Layout", at: np.ndarray, places: np.ndarray, kind: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where each key or packed record begins and ends in the memory; within its column."""
        of_bytes, of_offsets = (layout.number_of[name] for name in _VARIABLE[kind])
        item_bytes = layout.columns[of_offsets].dtype.itemsize
        entries = at[of_offsets] // item_bytes
        offsets = self._view(item_bytes)[entries + np.arange(2)[:, None]].astype(np.int64)
        start, stop = np.clip(at[of_bytes] + offsets, at[of_bytes], self._ends[kind, places])
        return start, stop

    def _unpack(
        self,
        layout: "_Layout",
        at: np.ndarray,
        places: np.ndarray,
        images: Buffers,
        crops: np.ndarray,
    ) -> Buffers:
        """Crops and labels from the packed records of these rows."""
        labelled = np.flatnonzero(images["image.status"] == 0)
        at, places, chosen = at[:, labelled], places[labelled], crops[labelled]
        start, stop = self._ranges(layout, at, places, _RECORDS)
        records = PackedRecords(self._view(1), start, stop - start)
        found = unpack_records(self._config, records, chosen)
        if self._config.crops is not None:
            starts, stops = self._ranges(layout, at, places, _KEYS)
            ranges = zip(starts.tolist(), stops.tolist(), strict=True)
            keys = [bytes(self._memory[first:last]) for first, last in ranges]
            sizes = images["image.size"][labelled]
            box, flip = draw_geometry(self._config.crops, keys, sizes, chosen)
            found |= {"crop.box": box, "crop.flip": flip}
        if len(labelled) == len(crops):
            return found
        return {name: _spread(array, labelled, len(crops)) for name, array in found.items()}


class _Piece:
    """Neighbouring columns of a row: a long one by itself, or short ones side by side.

    Attributes:
        number: of the (first) column.
        length: bytes of all of them in one row.
        bytes_of: for short ones, the column of each byte and its place in there.
    """

    def __init__(self, numbers: Sequence[int], lengths: Sequence[int], alone: bool) -> None:
        self.number = numbers[0]
        self.length = sum(lengths)
        self.bytes_of: tuple[np.ndarray, np.ndarray] | None = None
        if not alone:
            self.bytes_of = (
                np.repeat(numbers, lengths),
                np.concatenate([np.arange(length) for length in lengths]),
            )


class _Layout:
    """The columns of a shard in the order of the file, and what is needed to find one's rows.

    Attributes:
        columns: in this order.
        number_of: position of each by name.
        row_bytes: distance between rows, int64 (columns,); 0 where rows have different lengths.
        widths: items of a row, or of one crop.
        inner_shapes: shape of these items.
        of_images, of_crops: numbers of the columns of image files, and of crops and labels.
        variable: what follows the fixed columns: keys, and packed records if there are any.
        pieces: what a row's checksum runs over, up to the key.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.number_of = {column.name: number for number, column in enumerate(columns)}
        sizes = [column.dtype.itemsize * math.prod(column.shape) for column in columns]
        self.variable = [k for k, (name, _) in enumerate(_VARIABLE) if name in self.number_of]
        for kind in self.variable:
            sizes[self.number_of[_VARIABLE[kind][0]]] = 0
        self.row_bytes = np.array(sizes, np.int64)
        self.inner_shapes = [_inner_shape(column) for column in columns]
        self.widths = [math.prod(shape) for shape in self.inner_shapes]
        self.of_images = [n for name, n in self.number_of.items() if name.startswith("image.")]
        self.of_crops = [n for name, n in self.number_of.items() if name.startswith(_PER_CROP)]
        for kind in self.variable:
            sizes[self.number_of[_VARIABLE[kind][1]]] *= 2
        apart = {_CHECKSUM, *(_VARIABLE[kind][0] for kind in self.variable)}
        summed = [n for name, n in self.number_of.items() if name not in apart]
        self.pieces: list[_Piece] = []
        for short, group in groupby(summed, key=lambda number: sizes[number] <= _SMALL):
            numbers = list(group)
            runs = [numbers] if short else [[number] for number in numbers]
            self.pieces += [_Piece(run, [sizes[n] for n in run], not short) for run in runs]


def _inner_shape(column: Column) -> tuple[int, ...]:
    """Shape of what one image, or one crop, has in a column."""
    if column.name == "crop.flip":
        return ()
    return column.shape[1:] if column.name.startswith(_PER_CROP) else column.shape


def _spread(array: np.ndarray, rows: np.ndarray, num_rows: int) -> np.ndarray:
    """These rows in their places among zeros."""
    spread = np.zeros((num_rows, *array.shape[1:]), array.dtype)
    spread[rows] = array
    return spread


def _merge(parts: Sequence[tuple[Chosen, Buffers]]) -> Buffers:
    """Buffers of all rows from those of disjoint groups."""
    order = np.argsort(np.concatenate([chosen for chosen, _ in parts]))
    return {
        name: np.concatenate([buffers[name] for _, buffers in parts])[order] for name in parts[0][1]
    }
