"""One shard, mapped into memory: its header checked, its keys searchable, its rows readable."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fkd.errors import DamagedStore, FormatError
from fkd.store import files
from fkd.store.canonical import sha256
from fkd.store.checksums import RowChecksums
from fkd.store.config import StoreConfig
from fkd.store.keys import printable
from fkd.store.layout import Placed, columns_of, header_length, metadata_of, parse_header, place
from fkd.store.manifest import ShardEntry

_MANY_KEYS = 16  # from here on a dictionary of all keys beats binary searches


class Shard:
    """A mapped shard; rows are positions inside it.

    Raises:
        DamagedStore: missing, of another length, or its header differs from its checksum.
        FormatError: the header is not that of this config.
    """

    def __init__(self, root: Path, config: StoreConfig, entry: ShardEntry) -> None:
        self.entry = entry
        self.path = root / entry.file
        self._hint = files.repair_hint(root)
        self.file_bytes = memoryview(files.map_readonly(root, entry.file, entry.num_bytes))
        data_start = header_length(self.file_bytes, str(self.path))
        self._data = self.file_bytes[data_start:]
        placed = self._check_header(config, bytes(self.file_bytes[:data_start]))
        self._columns = {name: self._column(array) for name, array in placed.items()}
        self._checksums = RowChecksums(self._data, placed)

    def __len__(self) -> int:
        return self.entry.num_images

    def _check_header(self, config: StoreConfig, header: bytes) -> dict[str, Placed]:
        """The columns of a header that is exactly the one this config asks for."""
        file = str(self.path)
        if sha256(header) != self.entry.header_sha256:
            raise DamagedStore(f"{file}: its header was changed; {self._hint}")
        placed, metadata = parse_header(header[8:], len(self._data), file)
        if metadata != metadata_of(config.config_id, self.entry.first_image):
            raise FormatError(f"{file} belongs to another store or another place in this one")
        box, keys = placed.get("crop.box"), placed.get("key.bytes")
        columns = columns_of(config, wide_boxes=box is not None and box.dtype.itemsize == 4)
        expected = place(columns, len(self), keys.stop - keys.start if keys else 0)
        if placed != expected:
            raise FormatError(f"{file} has other columns than its config asks for")
        return expected

    def _column(self, placed: Placed) -> np.ndarray:
        count = (placed.stop - placed.start) // placed.dtype.itemsize
        return np.frombuffer(self._data, placed.dtype, count, placed.start).reshape(placed.shape)

    def key(self, row: int) -> bytes:
        """The key of one image; not compared with the row's checksum."""
        start, stop = self._checksums.key_range(row)
        return bytes(self._data[start:stop])

    def keys(self) -> list[bytes]:
        """All keys, ascending.

        Raises:
            DamagedStore: they do not fill their column.
        """
        offsets = self._columns["key.offset"].tolist()
        whole = self._columns["key.bytes"].tobytes()
        keys = [whole[start:stop] for start, stop in pairwise(offsets)]
        if offsets[0] != 0 or not all(keys) or b"".join(keys) != whole:
            raise DamagedStore(f"{self.path}: its keys were changed; {self._hint}")
        return keys

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

    def check(self, rows: Sequence[int]) -> None:
        """Compare rows with their checksums.

        Raises:
            DamagedStore: some differ; names the first and says how many.
        """
        stored = self._columns["record.crc32"][rows].tolist()
        found = self._checksums.of(rows)
        if stored == found:
            return
        damaged = [row for row, a, b in zip(rows, stored, found, strict=True) if a != b]
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise DamagedStore(
            f"{self.path}: the record of image {self.entry.first_image + damaged[0]} "
            f"({printable(self.key(damaged[0]))}){more} differs from its checksum; {self._hint}"
        )

    def fill(
        self, buffers: Mapping[str, np.ndarray], positions: Any, rows: Any, crops: np.ndarray
    ) -> None:
        """Copy rows to positions of buffers that are named like the columns.

        Args:
            buffers: image.* get one item a row; crop.* and label.* one for each chosen crop.
            positions: where in the buffers: an index, or an index array.
            rows: which rows: one number, or as many as positions.
            crops: which crops: (m,), or (rows, m). Of crop.flip the byte of each crop is copied.
        """
        each = rows if np.ndim(rows) == 0 else rows[:, None]
        for name, buffer in buffers.items():
            column = self._columns[name]
            if name.startswith("image."):
                buffer[positions] = column[rows]
            elif name == "crop.flip":
                buffer[positions] = column[each, crops >> 3]
            else:
                buffer[positions] = column[each, crops]
