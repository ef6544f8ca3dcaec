"""The bytes of a shard: its columns and their order, the header before them, and rows of them.

    8 bytes   N, length of the header, little-endian
    N bytes   header: JSON object, padded with spaces to a multiple of 8
    rest      the columns, one after the other, no holes; largest items first, then by name; the
              bytes of keys and packed records, whose length varies, come last

This is the safetensors layout, so any tool that knows safetensors opens a shard. `parse_header`
accepts exactly what the safetensors library accepts in what we use of it: every byte belongs to one
column, offsets neither overlap nor leave holes, and the file ends where the last column ends.

A row is what one image has in all columns. Its checksum, record.crc32, covers its bytes in all
other columns in the order of the file; of key.offset (and record.offset) it covers the two entries
around the key, so that rows overlap there:

    key.offset      | 0 | 7 | 15 | ...
    row 0             ^---^
    row 1                 ^----^
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any
from zlib import crc32

import numpy as np

from fkd.errors import FormatError
from fkd.labels.quantization import SCALE_DTYPE, SCALED, VALUE_DTYPES
from fkd.store.canonical import Fields
from fkd.store.config import FORMAT, FORMAT_VERSION, StoreConfig

MAX_HEADER_BYTES = 1 << 20
_DTYPES = {
    "BOOL": np.dtype("|b1"),
    "U8": np.dtype("|u1"),
    "I8": np.dtype("|i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_U16_CLASSES = 1 << 16
CHECKSUM = "record.crc32"
# Columns of bytes whose rows have different lengths, their offsets, and how to read two of these.
_VARIABLE = (
    ("key.bytes", "key.offset", Struct("<II")),
    ("record.bytes", "record.offset", Struct("<QQ")),
)


@dataclass(frozen=True)
class Column:
    """One array of a shard: little-endian dtype and shape per image.

    Columns of offsets have one entry more than there are images, and those of the bytes that these
    point to (keys, packed records) have their own counts.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placed:
    """An array as a header describes it: dtype, full shape, and byte range after the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def row_bytes(self) -> int:
        """Bytes from one item of the first axis to the next."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


def columns_of(config: StoreConfig, wide_boxes: bool) -> tuple[Column, ...]:
    """All columns of a shard in the order of the file.

    Args:
        config: says M, C, codec, extras and form.
        wide_boxes: boxes as u32, because an image of this shard has a side above 65,535; compact
            stores and label maps have no such column.
    """
    u1, u4, u8 = np.dtype("|u1"), np.dtype("<u4"), np.dtype("<u8")
    columns = [
        Column("key.offset", u4),
        Column("key.bytes", u1),
        Column("image.crc32", u4),
        Column("image.bytes", u8),
        Column("image.size", u4, (2,)),
        Column("image.status", u1),
        Column(CHECKSUM, u4),
    ]
    if config.compact:
        columns += [Column("record.offset", u8), Column("record.bytes", u1)]
        columns += [Column("geometry.crc32", u4)] if config.crops else []
    else:
        columns += [] if config.form == "map" else _crop_columns(config, wide_boxes)
        columns += _label_columns(config)
    return tuple(sorted(columns, key=_place_of))


def _place_of(column: Column) -> tuple[int, bool, str]:
    """Sorts by this; columns of variable length come last, so that all others lie where they do
    whatever the keys and records are."""
    variable = any(column.name == name for name, _, _ in _VARIABLE)
    return -column.dtype.itemsize, variable, column.name


def _crop_columns(config: StoreConfig, wide_boxes: bool) -> list[Column]:
    """Where the crops of a plain store lie."""
    m = config.num_crops
    columns = [
        Column("crop.box", np.dtype("<u4") if wide_boxes else np.dtype("<u2"), (m, 4)),
        Column("crop.flip", np.dtype("|u1"), (-(-m // 8),)),
    ]
    columns += [Column(f"crop.extra.{e.name}", e.dtype, (m, *e.shape)) for e in config.extras]
    return columns


def _label_columns(config: StoreConfig) -> list[Column]:
    """The labels of a plain store, or of the cells of label maps."""
    m, u2, u4 = config.num_crops, np.dtype("<u2"), np.dtype("<u4")
    columns = []
    if config.num_ids:
        ids = u2 if config.num_classes <= _MAX_U16_CLASSES else u4
        columns.append(Column("label.index", ids, (m, config.num_ids)))
    if config.value_dtype is not None:
        dtype = VALUE_DTYPES[config.value_dtype]
        columns.append(Column("label.value", dtype, (m, config.num_values)))
    if config.value_dtype == SCALED:
        columns.append(Column("label.scale", SCALE_DTYPE, (m,)))
    return columns


def place(
    columns: Sequence[Column], num_images: int, num_key_bytes: int, num_record_bytes: int = 0
) -> dict[str, Placed]:
    """Where each column lies in a shard of so many images, bytes of keys and of packed records."""
    counts = {"key.bytes": num_key_bytes, "record.bytes": num_record_bytes}
    counts |= {offsets: num_images + 1 for _, offsets, _ in _VARIABLE}
    placed, start = {}, 0
    for column in columns:
        shape = (counts.get(column.name, num_images), *column.shape)
        stop = start + math.prod(shape) * column.dtype.itemsize
        placed[column.name] = Placed(column.dtype, shape, start, stop)
        start = stop
    return placed


def least_bytes(config: StoreConfig, num_images: int) -> int:
    """Bytes that a shard of so many images has at least, for a store of this config."""
    placed = place(columns_of(config, False), num_images, num_key_bytes=num_images)
    return max(column.stop for column in placed.values())


def metadata_of(config_id: str, first_image: int) -> dict[str, str]:
    """The `__metadata__` of a shard's header."""
    return {
        "config_id": config_id,
        "first_image": str(first_image),
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
    }


def build_header(placed: Mapping[str, Placed], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a file; together a multiple of 8 bytes, so that columns are aligned."""
    members: dict[str, Any] = {
        name: {
            "data_offsets": [array.start, array.stop],
            "dtype": _DTYPE_NAMES[array.dtype],
            "shape": list(array.shape),
        }
        for name, array in placed.items()
    }
    members["__metadata__"] = dict(metadata)
    text = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_length(data: bytes | memoryview, file: str) -> int:
    """Bytes before the first column: the 8 of the length and the header itself.

    Raises:
        FormatError: the length is above the limit, or the file is too short for it.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MAX_HEADER_BYTES or 8 + length > len(data):
        raise FormatError(f"{file} claims a header of {length} bytes in a file of {len(data)}")
    return 8 + length


def parse_header(
    header: bytes, data_bytes: int, file: str
) -> tuple[dict[str, Placed], dict[str, str]]:
    """Arrays and metadata of a safetensors header.

    Args:
        header: the JSON alone, without the 8 bytes of its length.
        data_bytes: bytes of the file after the header.
        file: named in errors.

    Raises:
        FormatError: malformed JSON, unknown dtypes, or arrays that do not tile the data exactly.
    """
    members = _load_object(header, file)
    metadata = members.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise FormatError(f"{file}: __metadata__ must map names to strings")
    placed = {
        name: _parse_array(value, f"{file}: {name[:64]!a}") for name, value in members.items()
    }
    end = 0
    for name, array in sorted(placed.items(), key=lambda item: (item[1].start, item[1].stop)):
        if array.start != end:
            raise FormatError(f"{file}: {name[:64]!a} starts at byte {array.start}, not {end}")
        end = array.stop
    if end != data_bytes:
        raise FormatError(f"{file} describes {end} bytes of data and has {data_bytes}")
    return placed, metadata


def _load_object(header: bytes, file: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a name appears twice")
        return members

    try:
        if header[:1] != b"{":
            raise ValueError("it does not begin with {")
        value = json.loads(header, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} has a malformed header: {error}") from error
    assert isinstance(value, dict)
    return value


def _parse_array(value: Any, where: str) -> Placed:
    fields = Fields(value, where)
    fields.exactly("dtype", "shape", "data_offsets")
    name, shape, offsets = fields.text("dtype"), fields.items("shape"), fields.items("data_offsets")
    if name not in _DTYPES:
        raise FormatError(f"{where} has the unknown dtype {name[:16]!a}")
    if not all(type(n) is int and n >= 0 for n in (*shape, *offsets)) or len(offsets) != 2:
        raise FormatError(f"{where} has a shape or offsets that are not whole numbers")
    start, stop = offsets
    if stop - start != math.prod(shape) * _DTYPES[name].itemsize:
        raise FormatError(f"{where} has {stop - start} bytes, which its shape does not fill")
    return Placed(_DTYPES[name], tuple(shape), start, stop)


def row_dtype(columns: Sequence[Column]) -> np.dtype:
    """What a row has in the columns of fixed length, as one structured item; without checksum."""
    offsets = {name for _, name, _ in _VARIABLE}
    apart = {CHECKSUM, *(name for name, _, _ in _VARIABLE)}
    return np.dtype(
        [
            (column.name, column.dtype, (2,) if column.name in offsets else column.shape)
            for column in columns
            if column.name not in apart
        ]
    )


class Rows:
    """The rows of a shard in memory.

    Args:
        data: the shard without its header.
        columns: as in `columns_of`.
        placed: where they lie.

    Attributes:
        dtype: `row_dtype` of the columns.
    """

    def __init__(
        self, data: memoryview, columns: tuple[Column, ...], placed: Mapping[str, Placed]
    ) -> None:
        self._data = data
        checksums = placed[CHECKSUM]
        self._checksums = np.frombuffer(data, checksums.dtype, checksums.shape[0], checksums.start)
        self.dtype, self._spans = _fixed_columns(columns, len(self._checksums))
        self._variable = [
            (data[placed[name].start : placed[name].stop], placed[offsets].start, pair)
            for name, offsets, pair in _VARIABLE
            if name in placed
        ]

    def append_to(self, pieces: list[memoryview], row: int) -> list[bytes]:
        """Append what a row has in the columns of fixed length, in order; returns `variable`."""
        for start, step, length in self._spans:
            first = start + row * step
            pieces.append(self._data[first : first + length])
        return self.variable(row)

    def variable(self, row: int) -> list[bytes]:
        """The key of a row, and in compact stores its packed record."""
        parts = []
        for column, offsets, pair in self._variable:
            first, last = pair.unpack_from(self._data, offsets + row * pair.size // 2)
            parts.append(bytes(column[first:last]))
        return parts

    def stored_crc32(self, row: int) -> int:
        """The checksum that a row was written with."""
        return int(self._checksums[row])

    def crc32(self, row: int) -> int:
        """The checksum that a row has now."""
        pieces: list[memoryview] = []
        variable = self.append_to(pieces, row)
        return row_crc32(b"".join(pieces), variable)


def row_crc32(fixed: bytes | memoryview, variable: Sequence[bytes]) -> int:
    """The checksum of a row: its columns of fixed length, its key, its packed record."""
    checksum = crc32(fixed)
    for part in variable:
        checksum = crc32(part, checksum)
    return checksum


@cache
def _fixed_columns(
    columns: tuple[Column, ...], num_images: int
) -> tuple[np.dtype, tuple[tuple[int, int, int], ...]]:
    """The row dtype; start, distance of rows and length of a row in each column of fixed length.

    These do not depend on keys and records, which come last: shards of equal size share them, and a
    batch that touches many shards finds them in the cache of the processor.
    """
    dtype, placed = row_dtype(columns), place(columns, num_images, 0)
    return dtype, tuple(
        (placed[name].start, placed[name].row_bytes, dtype[name].itemsize)
        for name in dtype.names or ()
    )
