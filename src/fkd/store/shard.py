"""One shard: content becomes the bytes of a file, and rows of mapped files become content again.

A shard stores columns, so the bytes of one image are spread over the file. To read a batch, the
rows of its images are copied together, each checked by one checksum. They are one structured array
then, from which each column is taken by one indexed read, whichever shards the images lie in.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fkd.errors import DamagedStore, FormatError
from fkd.store import files
from fkd.store.canonical import printable, sha256
from fkd.store.config import StoreConfig
from fkd.store.content import LABELED, ImageFacts, LabeledCrops, check_content
from fkd.store.geometry import draw_geometry, geometry_crc32, grid_boxes
from fkd.store.layout import (
    CHECKSUM,
    Placed,
    Rows,
    build_header,
    columns_of,
    header_length,
    metadata_of,
    parse_header,
    place,
    row_crc32,
    row_dtype,
)
from fkd.store.manifest import ShardEntry
from fkd.store.packing import pack_record, unpack_records
from fkd.store.values import SCALE, VALUE, read_values, stored_values

_MAX_U16 = 65535
_MANY_KEYS = 16  # from here on a dictionary of all keys beats binary searches
_AS_INT64 = ("image.bytes", "image.size", "crop.box", "label.index")


# Writing


@dataclass(frozen=True)
class ShardBytes:
    """A shard's file, and the checksums of it that its commit repeats."""

    data: bytes
    sha256: str
    header_sha256: str


def encode_shard(
    config: StoreConfig, first_image: int, keys: Sequence[bytes], content: LabeledCrops
) -> ShardBytes:
    """The bytes of a shard; a function of its arguments alone.

    The rows of unreadable images are stored as zeros, whatever is given there.

    Raises:
        ValueError: arrays do not fit the config, or hold what no label may hold.
    """
    check_content(config, keys, content)
    wide_boxes = bool(np.max(content.images.size, initial=0) > _MAX_U16)
    columns, arrays = columns_of(config, wide_boxes), _stored_arrays(config, keys, content)
    lengths = (arrays[name].size for name in ("key.bytes", "record.bytes") if name in arrays)
    placed = place(columns, len(keys), *lengths)
    header = build_header(placed, metadata_of(config.config_id, first_image))
    file = bytearray(header) + bytes(max(column.stop for column in placed.values()))
    data = memoryview(file)[len(header) :]
    for name, array in arrays.items():
        if name in placed:
            _put(data, placed[name], array)
    rows = Rows(data, columns, placed)
    checksums = [rows.crc32(row) for row in range(len(keys))]
    _put(data, placed[CHECKSUM], np.array(checksums))
    return ShardBytes(bytes(file), sha256(file), sha256(header))


def _put(data: memoryview, column: Placed, array: np.ndarray) -> None:
    stored = np.ascontiguousarray(array, column.dtype)
    data[column.start : column.stop] = stored.reshape(-1).view(np.uint8).data


def _stored_arrays(
    config: StoreConfig, keys: Sequence[bytes], content: LabeledCrops
) -> dict[str, np.ndarray]:
    """Every column but the checksum, by name; of unreadable images all is zero but key and status.

    In the compact form they include what the records are made of.
    """
    labeled = content.images.status == LABELED

    def zeroed(array: np.ndarray) -> np.ndarray:
        copy = array.copy()
        copy[~labeled] = 0
        return copy

    arrays = (content if labeled.all() else content.map(zeroed)).columns
    arrays |= {
        "image.status": content.images.status,
        "key.offset": np.cumsum([0, *map(len, keys)]),
        "key.bytes": np.frombuffer(b"".join(keys), np.uint8),
    }
    if config.compact:
        return arrays | _packed_arrays(config, arrays, labeled)
    arrays["crop.flip"] = np.packbits(arrays["crop.flip"], axis=1, bitorder="little")
    if config.value_dtype is not None:
        arrays |= stored_values(arrays[VALUE], config.value_dtype)
    return arrays


def _packed_arrays(
    config: StoreConfig, arrays: dict[str, np.ndarray], labeled: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of packed records; an unreadable image has an empty record."""
    crops = {name: a for name, a in arrays.items() if name.startswith(("crop.", "label."))}
    records = [
        pack_record(config, {name: array[row] for name, array in crops.items()})
        if has_label
        else b""
        for row, has_label in enumerate(labeled.tolist())
    ]
    columns = {
        "record.offset": np.cumsum([0, *map(len, records)]),
        "record.bytes": np.frombuffer(b"".join(records), np.uint8),
    }
    if config.crops is not None:
        checksums = geometry_crc32(crops["crop.box"], crops["crop.flip"])
        columns["geometry.crc32"] = np.where(labeled, checksums, 0)
    return columns


# Reading


class Shard:
    """A mapped shard; rows are positions inside it.

    Args:
        root: the folder of the store.
        config: of the store.
        entry: what the manifest or the commit says about the shard.

    Raises:
        DamagedStore: missing, of another length, or its header differs from its checksum.
        FormatError: the header is not that of this config.

    Attributes:
        file_bytes: the whole file.
        rows: its rows.
        wide_boxes: whether its boxes have 32 bits.
    """

    def __init__(self, root: Path, config: StoreConfig, entry: ShardEntry) -> None:
        self.entry = entry
        self.path = root / entry.file
        self._hint = files.repair_hint(root)
        self.file_bytes = files.map_readonly(root, entry.file, entry.num_bytes)
        start = header_length(self.file_bytes, str(self.path))
        self._data = self.file_bytes[start:]
        self._placed = self._check_header(config, bytes(self.file_bytes[:start]))
        self.rows = Rows(self._data, columns_of(config, self.wide_boxes), self._placed)

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
        if metadata != metadata_of(config.config_id, self.entry.first_image):
            raise FormatError(f"{file} belongs to another store or another place in this one")
        self.wide_boxes = "crop.box" in placed and placed["crop.box"].dtype.itemsize == 4
        lengths = (
            placed[name].stop - placed[name].start if name in placed else 0
            for name in ("key.bytes", "record.bytes")
        )
        expected = place(columns_of(config, self.wide_boxes), len(self), *lengths)
        if placed != expected:
            raise FormatError(f"{file} has other columns than its config asks for")
        return expected

    def _column(self, name: str) -> np.ndarray:
        """A column, still in the map."""
        column = self._placed[name]
        count = (column.stop - column.start) // column.dtype.itemsize
        array = np.frombuffer(self._data, column.dtype, count, column.start)
        return array.reshape(column.shape)

    def key(self, row: int) -> bytes:
        """The key of one image; not compared with the row's checksum."""
        return self.rows.variable(row)[0]

    def keys(self) -> list[bytes]:
        """All keys, ascending.

        Raises:
            DamagedStore: they do not fill their column.
        """
        ends, whole = self._column("key.offset").tolist(), self._column("key.bytes").tobytes()
        keys = [whole[start:stop] for start, stop in pairwise(ends)]
        if ends[0] != 0 or not all(keys) or b"".join(keys) != whole:
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

    def facts(self, rows: np.ndarray) -> ImageFacts:
        """What is known of the image files of these rows; not compared with checksums."""
        columns = {
            name: self._column(name)[rows] for name in self._placed if name.startswith("image.")
        }
        return ImageFacts.from_columns({n: _native(n, array) for n, array in columns.items()})

    def geometry_crc32(self, rows: np.ndarray) -> np.ndarray | None:
        """The checksums of recomputed boxes and flips; None where they are stored."""
        return self._column("geometry.crc32")[rows] if "geometry.crc32" in self._placed else None

    def check(self, rows: Sequence[int]) -> None:
        """Compare rows with their checksums.

        Raises:
            DamagedStore: some differ; names the first and says how many.
        """
        damaged = [row for row in rows if self.rows.crc32(row) != self.rows.stored_crc32(row)]
        if damaged:
            raise self.damage(damaged)

    def damage(self, rows: Sequence[int]) -> DamagedStore:
        """What to raise for rows that differ from their checksums."""
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return DamagedStore(
            f"{self.path}: the record of image {self.entry.first_image + rows[0]} "
            f"({printable(self.key(rows[0]))}){more} differs from its checksum; {self._hint}"
        )

    def check_records(self) -> None:
        """Make sure that the packed records of a compact store fill their column.

        Raises:
            FormatError: they do not.
        """
        if "record.offset" not in self._placed:
            return
        ends = self._column("record.offset")
        ascending = bool((ends[1:] >= ends[:-1]).all())
        if ends[0] != 0 or ends[-1] != len(self._column("record.bytes")) or not ascending:
            raise FormatError(f"{self.path}: its packed records do not fill their column")


def read_crops(
    config: StoreConfig,
    shards: Sequence[Shard],
    rows: Sequence[int],
    crops: np.ndarray,
    check: bool = True,
) -> LabeledCrops:
    """Crops and labels of B images that may lie in many shards.

    Args:
        config: of the store.
        shards: the shard of each image.
        rows: the row of each image in its shard.
        crops: (B, m), which crops of each.
        check: compare every row with its checksum.

    Returns:
        Boxes and flips of compact stores and label maps are computed where they are not stored. Of
        images without labels all is zero but the status.

    Raises:
        DamagedStore: a row differs from its checksum.
        FormatError: a packed record or the scale of a label is malformed.
    """
    # Rows of shards with wide boxes have another layout: they are read apart, and rarely there.
    wide = [shard.wide_boxes for shard in shards]
    if not (True in wide and False in wide):
        return LabeledCrops.from_columns(_read_alike(config, shards, rows, crops, check))
    groups = [[i for i, kind in enumerate(wide) if kind == each] for each in (False, True)]
    parts = [
        _read_alike(
            config, [shards[i] for i in group], [rows[i] for i in group], crops[group], check
        )
        for group in groups
    ]
    order = np.argsort(np.concatenate(groups))
    merged = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    return LabeledCrops.from_columns(merged)


def _read_alike(
    config: StoreConfig,
    shards: Sequence[Shard],
    rows: Sequence[int],
    crops: np.ndarray,
    check: bool,
) -> dict[str, np.ndarray]:
    """The arrays of `LabeledCrops.columns` of images in shards of one layout."""
    dtype = shards[0].rows.dtype if shards else row_dtype(columns_of(config, False))
    pieces: list[memoryview] = []
    variable = []
    for shard, row in zip(shards, rows, strict=True):
        variable.append(shard.rows.append_to(pieces, row))
    fixed = b"".join(pieces)
    if check:
        _check_rows(shards, rows, memoryview(fixed), variable)
    return _decode(config, np.frombuffer(fixed, dtype), variable, crops)


def _check_rows(
    shards: Sequence[Shard],
    rows: Sequence[int],
    fixed: memoryview,
    variable: Sequence[list[bytes]],
) -> None:
    """Compare rows with their checksums; `fixed` holds those of all images, end to end."""
    damaged, start = [], 0
    for shard, row, parts in zip(shards, rows, variable, strict=True):
        stop = start + shard.rows.dtype.itemsize
        if row_crc32(fixed[start:stop], parts) != shard.rows.stored_crc32(row):
            damaged.append((shard, row))
        start = stop
    if damaged:
        first = damaged[0][0]
        raise first.damage([row for shard, row in damaged if shard is first])


def _decode(
    config: StoreConfig, table: np.ndarray, variable: Sequence[list[bytes]], crops: np.ndarray
) -> dict[str, np.ndarray]:
    """What the rows say of these crops, by the names of the columns of a plain store."""
    images = np.arange(len(table))[:, None]
    arrays = {}
    for name in table.dtype.names or ():
        if name.startswith("image."):
            arrays[name] = _native(name, table[name])
        elif name == "crop.flip":
            bits = np.unpackbits(table[name], axis=1, bitorder="little")
            arrays[name] = bits[images, crops].view(bool)
        elif name == VALUE:
            assert config.value_dtype is not None
            arrays[name] = read_values(table, config.value_dtype, (images, crops))
        elif name.startswith(("crop.", "label.")) and name != SCALE:
            arrays[name] = _native(name, table[name][images, crops])
    if config.compact:
        arrays |= _unpack(config, arrays, variable, crops)
    elif config.grid is not None:
        boxes = grid_boxes(config.grid, arrays["image.size"])
        arrays["crop.box"] = np.take_along_axis(boxes, crops[..., None], axis=1)
        arrays["crop.flip"] = np.zeros(crops.shape, bool)
    return arrays


def _unpack(
    config: StoreConfig,
    facts: dict[str, np.ndarray],
    variable: Sequence[list[bytes]],
    crops: np.ndarray,
) -> dict[str, np.ndarray]:
    """Crops and labels from the packed records of the labeled images, zeros for the others."""
    labeled = np.flatnonzero(facts["image.status"] == LABELED)
    records = [variable[i][1] for i in labeled.tolist()]
    arrays = unpack_records(config, records, crops[labeled])
    if config.crops is not None:
        crc32, num_bytes, size = (facts[f"image.{n}"][labeled] for n in ("crc32", "bytes", "size"))
        box, flip = draw_geometry(config.crops, crc32, num_bytes, size, crops[labeled])
        arrays |= {"crop.box": box, "crop.flip": flip}
    if len(labeled) == len(crops):
        return arrays

    def spread(array: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(crops), *array.shape[1:]), array.dtype)
        whole[labeled] = array
        return whole

    return {name: spread(array) for name, array in arrays.items()}


def _native(name: str, array: np.ndarray) -> np.ndarray:
    """A copy in the byte order of this machine; int64 where numbers are computed with."""
    return array.astype(np.int64 if name in _AS_INT64 else array.dtype.newbyteorder("="))
