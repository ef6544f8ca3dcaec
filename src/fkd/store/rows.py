"""Rows of shards in memory: gathered by index, whichever shards they lie in, and checked.

A shard stores columns, so the bytes of one image's row lie apart. `Rows` knows where each column of
each shard begins in one block of memory: reading a batch costs one pass over its cells by a kernel
(`numpy_rows`), and nothing per crop in Python.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fkd.store import numpy_rows
from fkd.store.compact import PackedRecords, unpack_records
from fkd.store.config import StoreConfig
from fkd.store.geometry import draw_geometry, grid_boxes
from fkd.store.layout import Placed, columns_of
from fkd.store.memory import Memory
from fkd.store.row_layout import KEYS, RECORDS, VARIABLE, RowLayout
from fkd.store.stored import Buffers

Chosen = slice | np.ndarray  # positions in a batch
_ALL = slice(None)


class Located(NamedTuple):
    """Rows of shards of one layout.

    Attributes:
        layout: of their shards.
        chosen: which rows of the batch they are.
        at: the byte at which each begins in each column, int64 (columns, rows).
        ends: where the columns of `VARIABLE` end, int64 (2, rows).
    """

    layout: RowLayout
    chosen: Chosen
    at: np.ndarray
    ends: np.ndarray


class Rows:
    """Rows of the shards of a store; a row is named by its shard's place and its number there.

    Args:
        config: says which columns there are.
        memory: holds the shards, each beginning at a multiple of 8 bytes.
        num_places: shards that there may be; `add` announces them.
    """

    def __init__(self, config: StoreConfig, memory: memoryview, num_places: int) -> None:
        self._config = config
        self._memory = Memory(memory)
        self._layouts = [RowLayout(columns_of(config, wide_boxes)) for wide_boxes in (False, True)]
        self._wide = np.zeros(num_places, bool)
        self._any_wide = False
        self._starts = np.zeros((len(self._layouts[0].columns), num_places), np.int64)
        self._ends = np.zeros((len(VARIABLE), num_places), np.int64)
        self._work = numpy_rows

    def add(self, place: int, start: int, placed: Mapping[str, Placed]) -> None:
        """Announce the shard at `place`, whose columns begin at byte `start` of the memory."""
        wide = "crop.box" in placed and placed["crop.box"].dtype.itemsize == 4
        columns = self._layouts[wide].columns
        self._starts[:, place] = [start + placed[column.name].start for column in columns]
        for kind, (name, _) in enumerate(VARIABLE):
            self._ends[kind, place] = start + placed[name].stop if name in placed else 0
        self._wide[place] = wide
        self._any_wide |= wide

    def locate(self, places: np.ndarray, rows: np.ndarray) -> list[Located]:
        """Where rows are: those with narrow boxes, and those with wide ones; mostly of one kind.

        Args:
            places: (B,), which shard each row is in.
            rows: (B,), which row of it.
        """
        if not self._any_wide:
            return [self._located(False, _ALL, places, rows)]
        wide = self._wide[places]
        if wide.all() or not wide.any():
            return [self._located(bool(wide.any()), _ALL, places, rows)]
        groups = [(kind, np.flatnonzero(wide == kind)) for kind in (False, True)]
        return [
            self._located(kind, chosen, places[chosen], rows[chosen]) for kind, chosen in groups
        ]

    def _located(self, wide: bool, chosen: Chosen, places: np.ndarray, rows: np.ndarray) -> Located:
        layout = self._layouts[wide]
        at: np.ndarray = self._starts.take(places, axis=1)
        at += layout.row_bytes[:, None] * rows
        return Located(layout, chosen, at, self._ends.take(places, axis=1))

    def read(self, located: Sequence[Located], crops: np.ndarray | None) -> Buffers:
        """Copies of rows, by the names of the columns.

        Args:
            located: of B rows.
            crops: (B, m), which crops of each, or None for the image.* columns alone.

        Ids and boxes are int64, crop.flip is bool, label.value float32. Of a compact store the
        crops come unpacked, by the names that a plain one has; zeros for images without labels. Of
        label maps crop.box and crop.flip are computed.

        Raises:
            FormatError: a packed record is malformed.
        """
        parts = [(rows.chosen, self._read(rows, crops)) for rows in located]
        return parts[0][1] if len(parts) == 1 else _merge(parts)

    def _read(self, rows: Located, crops: np.ndarray | None) -> Buffers:
        chosen = None if crops is None else crops[rows.chosen]
        dtype = self._config.value_dtype
        buffers: Buffers = self._work.gather(self._memory, rows.layout, rows.at, chosen, dtype)
        if chosen is None:
            return buffers
        if self._config.compact:
            return buffers | self._unpack(rows, buffers, chosen)
        if self._config.grid is not None:
            boxes = grid_boxes(self._config.grid, buffers["image.size"])
            buffers["crop.box"] = np.take_along_axis(boxes, chosen[..., None], axis=1)
            buffers["crop.flip"] = np.zeros(chosen.shape, bool)
        return buffers

    def damaged(self, located: Sequence[Located]) -> np.ndarray:
        """Positions of the rows that differ from their checksums, int64, ascending."""
        found = []
        for rows in located:
            stored = self._memory.items(4)[rows.at[rows.layout.checksum] >> 2]
            differ = np.flatnonzero(stored != self._checksums(rows))
            found.append(differ if isinstance(rows.chosen, slice) else rows.chosen[differ])
        return found[0] if len(found) == 1 else np.sort(np.concatenate(found))

    def checksums(self, located: Sequence[Located]) -> np.ndarray:
        """The CRC-32 of the bytes of each row, uint32 (B,)."""
        parts = [(rows.chosen, {"": self._checksums(rows)}) for rows in located]
        return parts[0][1][""] if len(parts) == 1 else _merge(parts)[""]

    def _checksums(self, rows: Located) -> np.ndarray:
        found: np.ndarray = self._work.checksums(self._memory, rows.layout, rows.at, rows.ends)
        return found

    def _unpack(self, rows: Located, images: Buffers, crops: np.ndarray) -> Buffers:
        """Crops and labels from the packed records of these rows."""
        labeled = np.flatnonzero(images["image.status"] == 0)
        at, ends, chosen = rows.at[:, labeled], rows.ends[:, labeled], crops[labeled]
        start, stop = numpy_rows.ranges(self._memory, rows.layout, at, ends, RECORDS)
        records = PackedRecords(self._memory.items(1), start, stop - start)
        found = unpack_records(self._config, records, chosen)
        if self._config.crops is not None:
            starts, stops = numpy_rows.ranges(self._memory, rows.layout, at, ends, KEYS)
            ranges = zip(starts.tolist(), stops.tolist(), strict=True)
            keys = [bytes(self._memory.data[first:last]) for first, last in ranges]
            sizes = images["image.size"][labeled]
            box, flip = draw_geometry(self._config.crops, keys, sizes, chosen)
            found |= {"crop.box": box, "crop.flip": flip}
        if len(labeled) == len(crops):
            return found
        return {name: _spread(array, labeled, len(crops)) for name, array in found.items()}


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
