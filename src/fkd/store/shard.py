"""One shard, mapped into memory: its header checked, its keys searchable, its rows readable."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from struct import Struct

import numpy as np

from fkd.errors import DamagedStore, FormatError
from fkd.store import files
from fkd.store.canonical import sha256
from fkd.store.config import StoreConfig
from fkd.store.keys import printable
from fkd.store.layout import Placed, columns_of, header_length, metadata_of, parse_header, place
from fkd.store.manifest import ShardEntry
from fkd.store.region import Region
from fkd.store.rows import Rows
from fkd.store.stored import Buffers

_OFFSETS = Struct("<II")
_MANY_KEYS = 16  # from here on a dictionary of all keys beats binary searches


class Shard:
    """A mapped shard; rows are positions inside it.

    Args:
        root: the folder of the store.
        config: of the store.
        entry: what the manifest or the commit says about the shard.
        home: where to map it: a region and its number there; by default a region of its own.

    Raises:
        DamagedStore: missing, of another length, or its header differs from its checksum.
        FormatError: the header is not that of this config.

    Attributes:
        file_bytes: the whole file.
        placed: where the columns lie in the data, which begins at `data_start`.
    """

    def __init__(
        self,
        root: Path,
        config: StoreConfig,
        entry: ShardEntry,
        home: tuple[Region, int] | None = None,
    ) -> None:
        self.entry = entry
        self.path = root / entry.file
        self._config = config
        self._hint = files.repair_hint(root)
        region, number = home or (Region([entry.num_bytes]), 0)
        self.file_bytes = files.map_readonly(root, entry.file, region, number)
        self.data_start = header_length(self.file_bytes, str(self.path))
        self._data = self.file_bytes[self.data_start :]
        self.placed = self._check_header(config, bytes(self.file_bytes[: self.data_start]))

    def __len__(self) -> int:
        return self.entry.num_images

    def _check_header(self, config: StoreConfig, header: bytes) -> dict[str, Placed]:
        """The columns of a header that is exactly the one this config asks for."""
        file = str(self.path)
        if sha256(header) != self.entry.header_sha256:
            raise DamagedStore(f"{file}: its header was changed; {self._hint}")
        if len(header) % 8:
            raise FormatError(f"{file} has a header whose length is no multiple of 8")
        placed, metadata = parse_header(header[8:], len(self._data), file)
        first = self.entry.first_image
        if metadata != metadata_of(config.config_id, first, config.format_version):
            raise FormatError(f"{file} belongs to another store or another place in this one")
        box = placed.get("crop.box")
        columns = columns_of(config, wide_boxes=box is not None and box.dtype.itemsize == 4)
        lengths = (_num_bytes(placed.get(name)) for name in ("key.bytes", "record.bytes"))
        expected = place(columns, len(self), *lengths)
        if placed != expected:
            raise FormatError(f"{file} has other columns than its config asks for")
        return expected

    def key(self, row: int) -> bytes:
        """The key of one image; not compared with the row's checksum."""
        start, stop = _OFFSETS.unpack_from(self._data, self.placed["key.offset"].start + 4 * row)
        column = self.placed["key.bytes"]
        return bytes(self._data[column.start : column.stop][start:stop])

    def keys(self) -> list[bytes]:
        """All keys, ascending.

        Raises:
            DamagedStore: they do not fill their column.
        """
        offsets, column = self.placed["key.offset"], self.placed["key.bytes"]
        ends = np.frombuffer(self._data, offsets.dtype, len(self) + 1, offsets.start).tolist()
        whole = bytes(self._data[column.start : column.stop])
        keys = [whole[start:stop] for start, stop in pairwise(ends)]
        if ends[0] != 0 or not all(keys) or b"".join(keys) != whole:
            raise DamagedStore(f"{self.path}: its keys were changed; {self._hint}")
        return keys

    def check_records(self) -> None:
        """Make sure that the packed records of a compact store fill their column.

        Raises:
            FormatError: they do not.
        """
        offsets, column = self.placed.get("record.offset"), self.placed.get("record.bytes")
        if offsets is None or column is None:
            return
        ends = np.frombuffer(self._data, offsets.dtype, len(self) + 1, offsets.start)
        ascending = bool((ends[1:] >= ends[:-1]).all())
        if ends[0] != 0 or ends[-1] != _num_bytes(column) or not ascending:
            raise FormatError(f"{self.path}: its packed records do not fill their column")

    def geometry_crc32(self, rows: np.ndarray) -> np.ndarray | None:
        """The checksums of recomputed boxes and flips; None where they are stored."""
        column = self.placed.get("geometry.crc32")
        if column is None:
            return None
        found: np.ndarray = np.frombuffer(self._data, column.dtype, len(self), column.start)[rows]
        return found

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """Rows of these keys, int64; -1 for a key that is not here."""
        if len(keys) < _MANY_KEYS:
            rows = [self._search(key) for key in keys]
        else:
            row_of = {key: row for row, key in enumerate(self.keys())}
            rows = [row_of.get(key, -1) for key in keys]
        return np.array(rows, np.int64)

    def _search(self, key: bytes) -> int:
        row = bisect_left(range(len(self)), key, key=self.key)
        return row if row < len(self) and self.key(row) == key else -1

    @cached_property
    def rows(self) -> Rows:
        """Its rows alone, at place 0."""
        rows = Rows(self._config, self.file_bytes, 1)
        rows.add(0, self.data_start, self.placed)
        return rows

    def check(self, rows: np.ndarray) -> None:
        """Compare rows (n,) with their checksums.

        Raises:
            DamagedStore: some differ; names the first and says how many.
        """
        damaged = self.rows.damaged(self.rows.locate(np.zeros_like(rows), rows))
        if len(damaged):
            raise self.damage(rows[damaged])

    def damage(self, rows: np.ndarray) -> DamagedStore:
        """What to raise for rows that differ from their checksums."""
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return DamagedStore(
            f"{self.path}: the record of image {self.entry.first_image + rows[0]} "
            f"({printable(self.key(int(rows[0])))}){more} differs from its checksum; {self._hint}"
        )

    def read(self, rows: np.ndarray, crops: np.ndarray) -> Buffers:
        """Crops (n, m) of rows (n,), by the names of the columns."""
        return self.rows.read(self.rows.locate(np.zeros_like(rows), rows), crops)


def _num_bytes(column: Placed | None) -> int:
    return 0 if column is None else column.stop - column.start
