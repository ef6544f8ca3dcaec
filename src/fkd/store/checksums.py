"""The checksum of an image's row: CRC-32 over its bytes in every column of a shard.

A shard stores columns, so the bytes of one row lie apart; the checksum runs over them in the order
of the file (largest items first, then by name), which puts the bytes of the key last. record.crc32
itself is left out; key.offset counts with the two entries around the key, so rows overlap there:

    key.offset      | 0 | 7 | 15 | ...
    row 0             ^---^
    row 1                 ^----^
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from zlib import crc32

from fkd.store.layout import Placed

_OFFSETS = Struct("<II")


class RowChecksums:
    """Checksums of the rows of one shard, computed from the bytes of its columns."""

    def __init__(self, data: memoryview, placed: Mapping[str, Placed]) -> None:
        self._data = data
        self._pieces = []  # where the first row lies, its length, distance to the next row
        for name, column in placed.items():
            if name in ("key.bytes", "record.crc32"):
                continue
            step = column.row_bytes
            self._pieces.append((column.start, 2 * step if name == "key.offset" else step, step))
        self._offsets, self._keys = placed["key.offset"].start, placed["key.bytes"]

    def of(self, rows: Iterable[int]) -> list[int]:
        """The CRC-32 of each row. The inner loop is where a checked read spends its time."""
        data, pieces, checksums = self._data, self._pieces, []
        for row in rows:
            crc = 0
            for start, length, step in pieces:
                at = start + row * step
                crc = crc32(data[at : at + length], crc)
            start, stop = self.key_range(row)
            checksums.append(crc32(data[start:stop], crc))
        return checksums

    def key_range(self, row: int) -> tuple[int, int]:
        """Where the key of a row begins and ends in the data; not beyond the column of the keys."""
        start, stop = _OFFSETS.unpack_from(self._data, self._offsets + 4 * row)
        end = self._keys.stop
        return min(self._keys.start + start, end), min(self._keys.start + stop, end)
