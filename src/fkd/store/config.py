"""What a store's `config` says; members that mean nothing to this package are carried along unread.

The config is the identity of a store: its canonical JSON hashes to `config_id`, which every shard
and commit repeats.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fkd.crops.sampling import CropConfig
from fkd.errors import ConfigError, FormatError, NewerFormat
from fkd.labels.codec_names import PerTeacher, check_codec, parse_codec
from fkd.labels.codecs import Codec, Logits, TopKLogits, TopKLogProbs
from fkd.labels.quantization import SCALED, VALUE_DTYPES
from fkd.labels.sigmoid_codecs import TopKSigmoid
from fkd.store import canonical
from fkd.store.canonical import Fields
from fkd.store.geometry import parse_crops
from fkd.store.provenance import Provenance, parse_provenance

FORMAT = "fkd-label-store"
FORMAT_VERSION = 1
MAX_IMAGES = 1 << 40
MAX_CROPS = 1 << 24
MAX_CLASSES = 1 << 24
MAX_EXTRAS = 64
MAX_LEVELS = 1 << 16
MAX_PACKED_CROPS = 1 << 16  # equal crops take no bits at all, so their number needs a bound
MAX_GRID_SIDE = 1 << 12  # cells along a side of a label map
# Numbers of all crops of an image, which are read at once: 2 GiB where each is in the file, 256 MiB
# where many may come out of few bits.
MAX_NUMBERS, MAX_PACKED_NUMBERS = 1 << 28, 1 << 25
# dtypes that a replayed augmentation may store, as spelled in the config
EXTRA_DTYPES = ("b1", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
Form = Literal["plain", "compact"]  # of stores of crops; label maps have one form
_FORMS = ("plain", "compact", "map")
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
        form: "plain", "compact" or "map".
        num_images: images in the store, unreadable ones included.
        num_crops: M, crops stored per image; of label maps, their cells.
        num_classes: C; of features, their columns.
        class_names: C names, in the order of the class ids; none of features.
        codec: how labels are compressed.
        value_dtype: "u16", "f16", "f32" or "i8", how a value is stored; None where the codec has
            no values, and where `levels` says how they are stored.
        extras: columns of replayed augmentations, sorted by name.
        images_per_shard: images in every shard but the last, which may have fewer.
        keys_sha256: `keys_digest` of all keys in order.
        grid: rows and columns of a label map; None where crops are stored.
        crops: how boxes and flips are drawn again; None where they are stored.
        levels: steps of the square root of a probability, see `fkd.store.packing`; of compact
            stores whose codec has both ids and values.
        provenance: how the labels were made.
        source: the JSON object itself.
        config_id: SHA-256 of its canonical JSON.
    """

    form: str
    num_images: int
    num_crops: int
    num_classes: int
    class_names: tuple[str, ...]
    codec: Codec
    value_dtype: str | None
    extras: tuple[Extra, ...]
    images_per_shard: int
    keys_sha256: str
    grid: tuple[int, int] | None
    crops: CropConfig | None
    levels: int | None
    provenance: Provenance
    source: dict[str, Any]
    config_id: str

    @property
    def compact(self) -> bool:
        """Whether the crops of an image are packed into one record."""
        return self.form == "compact"

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

    @property
    def numbers_per_image(self) -> int:
        """About so many numbers of up to 8 bytes all crops of an image have."""
        extras = sum(math.prod(extra.shape) for extra in self.extras)
        return self.num_crops * (5 + self.num_ids + self.num_values + extras)

    def shard_range(self, number: int) -> tuple[int, int]:
        """First image of a shard, and one past its last."""
        first = number * self.images_per_shard
        return first, min(first + self.images_per_shard, self.num_images)

    @staticmethod
    def parse(value: Any, file: str) -> "StoreConfig":
        """Read a config; `file` is named in errors.

        Raises:
            FormatError: a field is missing, malformed or means nothing in this form, or an image
                would take more memory than any has.
            NewerFormat: the store needs a newer version of this package.
        """
        fields = Fields(value, file)
        require_version(fields, file)
        form = fields.choice("form", _FORMS)
        num_classes = fields.integer("num_classes", 1, MAX_CLASSES)
        most_crops = MAX_PACKED_CROPS if form == "compact" else MAX_CROPS
        num_crops = fields.integer("num_crops", 1, most_crops)
        codec = _parse_codec(fields, form, num_classes, file)
        has_levels = form == "compact" and _has_ids_and_values(codec, num_classes)
        if "origin" in fields:
            fields.choice("origin", ("labeled", "imported"))
        config = StoreConfig(
            form=form,
            num_images=fields.integer("num_images", 1, MAX_IMAGES),
            num_crops=num_crops,
            num_classes=num_classes,
            class_names=_parse_class_names(fields, num_classes, codec, file),
            codec=codec,
            value_dtype=_parse_value_dtype(fields, codec, num_classes, has_levels, file),
            extras=_parse_extras(fields, form, file),
            images_per_shard=fields.integer("images_per_shard", 1, MAX_IMAGES),
            keys_sha256=fields.digest("keys_sha256"),
            grid=_parse_grid(fields, form, num_crops, file),
            crops=_parse_geometry(fields, form, file),
            levels=_parse_levels(fields, has_levels),
            provenance=parse_provenance(fields, file),
            source=value,
            config_id=config_id(value, file),
        )
        most = MAX_PACKED_NUMBERS if config.compact else MAX_NUMBERS
        if config.numbers_per_image >= most:
            raise FormatError(
                f"{file}: the crops of an image have {config.numbers_per_image:,} numbers; a "
                f"{form} store allows {most:,}"
            )
        return config


def form_members(
    form: str, codec: Codec, num_classes: int, value_dtype: str | None = None
) -> dict[str, Any]:
    """The members of a config that depend on the form of the store, and its version.

    Args:
        form: "plain", "compact" or "map"; of a map, `grid` is left to the caller.
        codec: how labels are compressed.
        num_classes: C.
        value_dtype: how values are stored, where the store has such; by default u16 for
            probabilities and f16 for logits.

    Returns:
        `format_version`, `form`, and where they mean something `value_dtype`, `levels` and
        `geometry`. The latter is "recomputed"; a caller that stores boxes says "stored".

    Raises:
        ConfigError: there is no compact form of such labels, or they have no such `value_dtype`.
    """
    members: dict[str, Any] = {"format_version": FORMAT_VERSION, "form": form}
    if form == "compact":
        if not _is_packable(codec):
            raise ConfigError(f"form: labels of codec {codec.name} have no compact form; use plain")
        members["geometry"] = "recomputed"
    if form == "compact" and _has_ids_and_values(codec, num_classes):
        members["levels"] = default_levels(codec.num_ids(num_classes))
    if has_value_dtype(form, codec, num_classes):
        if value_dtype is not None:
            require_value_dtype(codec, value_dtype)
        members["value_dtype"] = value_dtype or ("f16" if codec.stores == "logits" else "u16")
    elif value_dtype is not None:
        raise ConfigError(
            f"value_dtype: {form} stores of codec {codec.name} have no values of type "
            f"{value_dtype}; leave it out" + (", or use form plain" if "levels" in members else "")
        )
    return members


def require_value_dtype(codec: Codec, value_dtype: str) -> None:
    """Refuse a way to store values that the values of a codec do not have.

    Raises:
        ConfigError: probabilities only, or all logits only, are stored like that.
    """
    if codec.stores == "logits" and value_dtype == "u16":
        raise ConfigError("value_dtype: u16 holds probabilities only; use f16 or f32 for logits")
    if value_dtype == SCALED and not isinstance(codec, Logits):
        raise ConfigError(
            f"value_dtype: i8 is for codec logits, whose values have one scale; of {codec.name} "
            "use u16, f16 or f32"
        )


def has_value_dtype(form: str, codec: Codec, num_classes: int) -> bool:
    """Whether a store keeps values of a `value_dtype`, and neither square roots nor none at all."""
    packed = form == "compact" and _has_ids_and_values(codec, num_classes)
    return codec.num_values(num_classes) > 0 and not packed


def default_levels(k: int) -> int:
    """Steps between a root of 0 and of 1 that keep the mean KL to the labels below 1e-5 nats.

    The error adds up over the kept classes. With 360 no code is above 255, since no stored share is
    above 1 / 2.
    """
    return round(161 * math.sqrt(max(5, k)))


def config_id(value: Any, file: str) -> str:
    """SHA-256 of the canonical JSON of a config.

    Raises:
        FormatError: it has no canonical JSON (a NaN, or an object of Python).
    """
    try:
        return canonical.sha256(canonical.encode(value))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{file} cannot be written as JSON: {error}") from error


def require_version(fields: Fields, file: str) -> None:
    """Refuse a format that this package cannot read.

    Raises:
        NewerFormat: the version is newer.
    """
    version = fields.integer("format_version", 1, 1 << 30)
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{file} has format version {version} and this fkd reads version {FORMAT_VERSION}; "
            "upgrade fkd"
        )


def _parse_codec(fields: Fields, form: str, num_classes: int, file: str) -> Codec:
    try:
        codec = parse_codec(fields.text("codec"))
        check_codec(codec, num_classes)
        if isinstance(codec, PerTeacher):
            teachers = [Fields(item, f"{file}: teachers") for item in fields.items("teachers")]
            weights = tuple(teacher.number("weight") for teacher in teachers)
            codec = replace(codec, weights=weights)
    except ConfigError as error:
        raise FormatError(f"{file}: {error}") from error
    if (form == "map") != isinstance(codec, TopKLogits):
        raise FormatError(f"{file}: the codec {codec.name} and the form {form} do not agree")
    if form == "compact" and not _is_packable(codec):
        raise FormatError(f"{file}: labels of codec {codec.name} have no compact form")
    return codec


def _is_packable(codec: Codec) -> bool:
    """Whether there is a compact form: not of labels whose values share no sum of 1."""
    return not isinstance(codec, PerTeacher | TopKLogProbs | TopKLogits | TopKSigmoid)


def _has_ids_and_values(codec: Codec, num_classes: int) -> bool:
    return codec.num_ids(num_classes) > 0 and codec.num_values(num_classes) > 0


def _parse_value_dtype(
    fields: Fields, codec: Codec, num_classes: int, has_levels: bool, file: str
) -> str | None:
    if has_levels or not codec.num_values(num_classes):
        fields.absent("value_dtype", f"for {codec.name} labels in this form")
        return None
    dtype = fields.choice("value_dtype", tuple(VALUE_DTYPES))
    try:
        require_value_dtype(codec, dtype)
    except ConfigError as error:
        raise FormatError(f"{file}: {error}") from error
    return dtype


def _parse_levels(fields: Fields, has_levels: bool) -> int | None:
    if has_levels:
        return fields.integer("levels", 1, MAX_LEVELS)
    fields.absent("levels", "without square roots of probabilities")
    return None


def _parse_grid(fields: Fields, form: str, num_crops: int, file: str) -> tuple[int, int] | None:
    """Rows and columns of a label map, None for crops."""
    if form != "map":
        fields.absent("grid", f"in a {form} store")
        return None
    sides = fields.items("grid")
    if len(sides) != 2 or not all(type(n) is int and 0 < n <= MAX_GRID_SIDE for n in sides):
        raise FormatError(f"{file}: grid must be two whole numbers from 1 to {MAX_GRID_SIDE}")
    rows, columns = sides
    if rows * columns != num_crops:
        raise FormatError(f"{file}: a grid of {rows} x {columns} cells has not {num_crops} crops")
    return rows, columns


def _parse_geometry(fields: Fields, form: str, file: str) -> CropConfig | None:
    """How to draw the crops of a compact store again; None if they are stored."""
    if form != "compact":
        fields.absent("geometry", f"in a {form} store")
        return None
    if fields.choice("geometry", ("stored", "recomputed")) == "stored":
        return None
    return parse_crops(fields.members("crops"), file)


def _parse_class_names(
    fields: Fields, num_classes: int, codec: Codec, file: str
) -> tuple[str, ...]:
    """The names of the classes; none of features, which are no classes."""
    if "outputs" in fields and fields.choice("outputs", ("classes", "features")) == "features":
        fields.absent("class_names", "for features")
        if not isinstance(codec, Logits):
            raise FormatError(f"{file}: features have the codec logits, not {codec.name}")
        return ()
    names = fields.items("class_names")
    if len(names) != num_classes or not all(type(name) is str for name in names):
        raise FormatError(f"{file} must name {num_classes} classes by strings, has {len(names)}")
    return tuple(names)


def _parse_extras(fields: Fields, form: str, file: str) -> tuple[Extra, ...]:
    if form == "map":
        fields.absent("extras", "in label maps")
        return ()
    extras = fields.members("extras")
    if len(extras) > MAX_EXTRAS:
        raise FormatError(f"{file} has {len(extras)} extras; a store allows {MAX_EXTRAS}")
    return tuple(_parse_extra(name, extras[name], file) for name in sorted(extras))


def _parse_extra(name: str, value: Any, file: str) -> Extra:
    where = f"{file}: extras.{name[:64]!a}"
    fields = Fields(value, where)
    fields.exactly("dtype", "shape")
    dtype, shape = fields.choice("dtype", EXTRA_DTYPES), fields.items("shape")
    if not _EXTRA_NAME.fullmatch(name):
        raise FormatError(f"{where} must be named by small letters, digits and underscores")
    if len(shape) > 4 or not all(type(n) is int and 0 < n <= 1 << 16 for n in shape):
        raise FormatError(f"{where} has the shape {str(shape)[:60]}; use up to 4 sizes above 0")
    return Extra(name, np.dtype(dtype).newbyteorder("<"), tuple(shape))
