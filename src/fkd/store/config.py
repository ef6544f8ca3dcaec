"""What a store's `config` says about its layout; everything else in it is carried along unread.

The config is the identity of a store: its canonical JSON hashes to `config_id`, which every shard
and commit repeats.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from fkd.crops.sampling import GENERATOR, CropConfig
from fkd.errors import ConfigError, FormatError, NewerFormat
from fkd.labels.codec_names import PerTeacher, check_codec, parse_codec
from fkd.labels.codecs import Codec, TopKLogits, TopKLogProbs
from fkd.labels.quantization import VALUE_DTYPES
from fkd.store import canonical
from fkd.store.canonical import Fields

FORMAT = "fkd-label-store"
NEWEST_VERSION = 3  # 1: plain stores; 2: compact ones; 3: label maps
MAX_IMAGES = 1 << 40
MAX_CROPS = 1 << 24
MAX_CLASSES = 1 << 24
MAX_EXTRAS = 64
MAX_LEVELS = 1 << 16
MAX_PACKED_CROPS = 1 << 16  # equal crops take no bits at all, so their number needs a bound
MAX_GRID_SIDE = 1 << 12  # cells along a side of a label map
# dtypes that a replayed augmentation may store, as spelled in the config
EXTRA_DTYPES = ("b1", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
Form = Literal["plain", "compact"]
Geometry = Literal["recomputed", "stored"]
_EXTRA_NAME = re.compile("[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Extra:
    """Parameters of one replayed augmentation: little-endian dtype and shape per crop."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoreConfig:
    """The part of the config that the store understands, and the whole as `source`.

    Attributes:
        format_version: 1 for plain stores, 2 for compact ones, 3 for label maps.
        num_images: images in the store, unreadable ones included.
        num_crops: M, crops stored per image; of label maps, their cells.
        num_classes: C.
        class_names: C names, in the order of the class ids.
        codec: how labels are compressed.
        value_dtype: "u16", "f16" or "f32"; how a value is stored.
        extras: columns of replayed augmentations, sorted by name.
        images_per_shard: images in every shard but the last, which may have fewer.
        keys_sha256: `keys_digest` of all keys in order.
        grid: rows and columns of a label map; None where crops are stored.
        crops: how boxes and flips are drawn again; None where they are stored.
        levels: steps of the square root of a probability, see `fkd.store.roots`; None where values
            are kept as value_dtype says: in plain stores, and in compact ones without class ids.
        source: the JSON object itself.
        config_id: SHA-256 of its canonical JSON.
    """

    format_version: int
    num_images: int
    num_crops: int
    num_classes: int
    class_names: tuple[str, ...]
    codec: Codec
    value_dtype: str
    extras: tuple[Extra, ...]
    images_per_shard: int
    keys_sha256: str
    grid: tuple[int, int] | None
    crops: CropConfig | None
    levels: int | None
    source: dict[str, Any]
    config_id: str

    @property
    def compact(self) -> bool:
        """Whether the crops of an image are packed into one record."""
        return self.format_version == 2

    @cached_property
    def num_shards(self) -> int:
        """Shards of the finished store."""
        return -(-self.num_images // self.images_per_shard)

    @property
    def num_ids(self) -> int:
        """K: class ids stored per crop."""
        return self.codec.num_ids(self.num_classes)

    @property
    def num_values(self) -> int:
        """V: values stored per crop."""
        return self.codec.num_values(self.num_classes)

    def shard_range(self, number: int) -> tuple[int, int]:
        """First image of a shard, and one past its last."""
        first = number * self.images_per_shard
        return first, min(first + self.images_per_shard, self.num_images)

    @staticmethod
    def parse(value: Any, file: str) -> "StoreConfig":
        """Read a config; `file` is named in errors.

        Raises:
            FormatError: a field is missing or odd, or the format is newer than this package.
        """
        fields = Fields(value, file)
        version = fields.integer("format_version", 1, MAX_CLASSES)
        require_version(version, file)
        num_classes = fields.integer("num_classes", 1, MAX_CLASSES)
        most_crops = MAX_PACKED_CROPS if version == 2 else MAX_CROPS
        num_crops = fields.integer("num_crops", 1, most_crops)
        codec, value_dtype = _parse_label(fields, num_classes, file)
        grid = _parse_grid(fields, num_crops, codec, file)
        compact = version == 2 and _is_compact(fields, codec, file)
        coded = compact and codec.num_ids(num_classes) and codec.num_values(num_classes)
        return StoreConfig(
            format_version=version,
            num_images=fields.integer("num_images", 1, MAX_IMAGES),
            num_crops=num_crops,
            num_classes=num_classes,
            class_names=_parse_class_names(fields, num_classes, file),
            codec=codec,
            value_dtype=value_dtype,
            extras=_parse_extras(fields.members("extras"), file),
            images_per_shard=fields.integer("images_per_shard", 1, MAX_IMAGES),
            keys_sha256=fields.digest("keys_sha256"),
            grid=grid,
            crops=_parse_geometry(fields, file) if compact else None,
            levels=fields.integer("levels", 1, MAX_LEVELS) if coded else None,
            source=value,
            config_id=config_id(value, file),
        )


def config_id(value: Any, file: str) -> str:
    """SHA-256 of the canonical JSON of a config.

    Raises:
        FormatError: it has no canonical JSON (a NaN, or an object of Python).
    """
    try:
        return canonical.sha256(canonical.encode(value))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{file} cannot be written as JSON: {error}") from error


def require_version(version: int, file: str) -> None:
    """Refuse a format that this package cannot read.

    Raises:
        NewerFormat: the version is newer.
    """
    if version > NEWEST_VERSION:
        raise NewerFormat(
            f"{file} has format version {version} and this fkd reads up to {NEWEST_VERSION}; "
            "upgrade fkd"
        )


def _parse_label(fields: Fields, num_classes: int, file: str) -> tuple[Codec, str]:
    value_dtype = fields.text("value_dtype")
    if value_dtype not in VALUE_DTYPES:
        raise FormatError(
            f"{file}: value_dtype {value_dtype!a} is none of {', '.join(VALUE_DTYPES)}"
        )
    try:
        codec = parse_codec(fields.text("codec"))
        check_codec(codec, num_classes)
    except ConfigError as error:
        raise FormatError(f"{file}: {error}") from error
    if codec.stores == "logits" and value_dtype == "u16":
        raise FormatError(f"{file}: u16 holds probabilities only; store logits as f16 or f32")
    if isinstance(codec, PerTeacher):
        codec = _parse_weights(fields, codec, file)
    return codec, value_dtype


def _parse_weights(fields: Fields, codec: PerTeacher, file: str) -> PerTeacher:
    """The codec with the weights of the teachers, in the order of their labels."""
    teachers = [Fields(teacher, f"{file}: teachers") for teacher in fields.items("teachers")]
    try:
        return replace(codec, weights=tuple(teacher.number("weight") for teacher in teachers))
    except ConfigError as error:
        raise FormatError(f"{file}: {error}") from error


def _parse_grid(fields: Fields, num_crops: int, codec: Codec, file: str) -> tuple[int, int] | None:
    """Rows and columns of a label map, None for crops; maps have largest logits and no extras."""
    is_map = fields.integer("format_version", 1, NEWEST_VERSION) == 3
    if is_map != isinstance(codec, TopKLogits):
        raise FormatError(f"{file}: the codec {codec.name} and the form of the store do not agree")
    if not is_map:
        return None
    if fields.text("geometry") != "grid":
        raise FormatError(f"{file}: version 3 stores have the geometry grid")
    rows, columns = _parse_sides(fields.items("grid"), file)
    if rows * columns != num_crops:
        raise FormatError(f"{file}: a grid of {rows} x {columns} cells has not {num_crops} crops")
    if fields.members("extras"):
        raise FormatError(f"{file}: label maps have no extras")
    return rows, columns


def _parse_sides(sides: list[Any], file: str) -> tuple[int, int]:
    if len(sides) != 2 or not all(type(n) is int and 0 < n <= MAX_GRID_SIDE for n in sides):
        raise FormatError(f"{file}: grid must be two whole numbers from 1 to {MAX_GRID_SIDE}")
    return sides[0], sides[1]


def _is_compact(fields: Fields, codec: Codec, file: str) -> bool:
    """True: version 2 knows one form only."""
    if fields.text("form") != "compact":
        raise FormatError(f"{file}: version 2 stores have the form compact")
    if not is_packable(codec):
        raise FormatError(f"{file}: labels of codec {codec.name} have no compact form")
    return True


def is_packable(codec: Codec) -> bool:
    """Whether there is a compact form: not of top logits, nor of teachers side by side."""
    return not isinstance(codec, PerTeacher | TopKLogProbs | TopKLogits)


def _parse_geometry(fields: Fields, file: str) -> CropConfig | None:
    """How to draw the crops of a compact store again; None if they are stored."""
    geometry = fields.text("geometry")
    if geometry not in get_args(Geometry):
        raise FormatError(f"{file}: geometry {geometry[:64]!a} is neither stored nor recomputed")
    return None if geometry == "stored" else parse_crops(fields.members("crops"), file)


def parse_crops(value: Any, file: str) -> CropConfig:
    """How crops were drawn, from the member `crops` of a config.

    Raises:
        FormatError: it does not say, or names a generator that is not ours.
    """
    fields = Fields(value, f"{file}: crops")
    generator = fields.text("generator")
    if generator != GENERATOR:
        raise FormatError(f"{file}: crops were drawn by {generator[:64]!a}, not by {GENERATOR}")
    try:
        return CropConfig(
            scale=fields.pair("scale"),
            ratio=fields.pair("ratio"),
            flip_prob=fields.number("flip_prob"),
            seed=fields.integer("seed", -(1 << 63), (1 << 64) - 1),
        )
    except ConfigError as error:
        raise FormatError(f"{file}: {error}") from error


def _parse_class_names(fields: Fields, num_classes: int, file: str) -> tuple[str, ...]:
    names = fields.items("class_names")
    if len(names) != num_classes or not all(type(name) is str for name in names):
        raise FormatError(f"{file} must name {num_classes} classes by strings, has {len(names)}")
    return tuple(names)


def _parse_extras(extras: dict[str, Any], file: str) -> tuple[Extra, ...]:
    if len(extras) > MAX_EXTRAS:
        raise FormatError(f"{file} has {len(extras)} extras; a store allows {MAX_EXTRAS}")
    return tuple(_parse_extra(name, extras[name], file) for name in sorted(extras))


def _parse_extra(name: str, value: Any, file: str) -> Extra:
    where = f"{file}: extras.{name[:64]!a}"
    fields = Fields(value, where)
    fields.exactly("dtype", "shape")
    dtype, shape = fields.text("dtype"), fields.items("shape")
    if not _EXTRA_NAME.fullmatch(name):
        raise FormatError(f"{where} must be named by small letters, digits and underscores")
    if dtype not in EXTRA_DTYPES:
        raise FormatError(f"{where} has dtype {dtype!a}, none of {', '.join(EXTRA_DTYPES)}")
    if len(shape) > 4 or not all(type(n) is int and 0 < n <= 1 << 16 for n in shape):
        raise FormatError(f"{where} has the shape {str(shape)[:60]}; use up to 4 sizes above 0")
    return Extra(name, np.dtype(dtype).newbyteorder("<"), tuple(shape))
