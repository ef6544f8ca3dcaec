"""The packed record of one image in a compact store: everything that a plain store keeps per crop.

    1 byte per field   its width w_f in bits, for all crops of the image
    4 bytes            number of classes in the dictionary, if the codec keeps class ids
    bits               the dictionary: each class id in as many bits as num_classes - 1 has
                       crop 0: field 0, field 1, ... field F - 1; crop 1: ...; crop M - 1

A crop's fields are the places of its K class ids in the dictionary; its K + 1 numbers of
`fkd.store.roots`, or where the codec keeps all classes its V values as they are stored; with stored
geometry top, left, height, width and flip; the bits of its extras. All crops of an image take
equally many bits, so any crop of any image can be read alone, and many at once without a loop.

An image's crops show few different classes (38 of 1,000 on average, where 200 crops kept 5 each),
and its class ids are numbered by the highest rank they reach: the first rank needs 3 bits, not 10.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fkd.errors import FormatError
from fkd.labels.codecs import MarginalRenorm
from fkd.labels.quantization import VALUE_DTYPES, dequantize, quantize
from fkd.store.bits import MAX_WIDTH, take_numbers, to_bits, to_bytes, widths_of
from fkd.store.config import StoreConfig
from fkd.store.roots import decode_roots, encode_roots

_COUNT_BYTES = 4
_NUMBERS_AT_ONCE = 1 << 18  # keeps what unpacking takes at a few tens of megabytes


@dataclass(frozen=True)
class Field:
    """One column of a crop's row, or several of the same kind."""

    column: str
    count: int
    dtype: np.dtype  # of extras and whole values; the width never exceeds it


@dataclass(frozen=True)
class PackedRecords:
    """Records of B images, end to end.

    Attributes:
        data: uint8, their bytes.
        start: int64 (B,), where each begins.
        num_bytes: int64 (B,), length of each.
    """

    data: np.ndarray
    start: np.ndarray
    num_bytes: np.ndarray

    @staticmethod
    def join(records: list[memoryview]) -> "PackedRecords":
        """Put records one after the other."""
        lengths = np.array([len(record) for record in records], np.int64)
        data = np.frombuffer(b"".join(records), np.uint8)
        return PackedRecords(data, np.cumsum(lengths) - lengths, lengths)


def fields_of(config: StoreConfig) -> tuple[Field, ...]:
    """The fields of a crop, in order."""
    fields = []
    if config.num_ids:
        fields.append(Field("label.index", config.num_ids, np.dtype("<u4")))
    if config.levels is not None:
        fields.append(Field("label.value", config.num_ids + 1, np.dtype("<u4")))
    elif config.num_values:
        fields.append(Field("label.value", config.num_values, VALUE_DTYPES[config.value_dtype]))
    if config.crops is None:
        fields += [Field("crop.box", 4, np.dtype("<u4")), Field("crop.flip", 1, np.dtype("|u1"))]
    for extra in config.extras:
        words = max(1, extra.dtype.itemsize // 4) * math.prod(extra.shape)
        fields.append(Field(f"crop.extra.{extra.name}", words, extra.dtype))
    return tuple(fields)


def pack_record(config: StoreConfig, columns: Mapping[str, np.ndarray]) -> bytes:
    """The record of one image.

    Args:
        config: of a compact store.
        columns: what the M crops have, by the names of the fields: class ids (M, K), values
            float32 (M, V), boxes (M, 4), flips (M,), extras (M, ...).
    """
    parts, head = [], b""
    dictionary = np.empty(0, np.uint8)
    for field in fields_of(config):
        given = columns[field.column]
        if field.column == "label.index":
            classes, numbers = _index_classes(given)
            head = len(classes).to_bytes(_COUNT_BYTES, "little")
            dictionary = to_bits(classes[:, None], np.array([_id_width(config)]))
        elif field.column == "label.value":
            numbers = _value_numbers(config, given)
        else:
            numbers = _as_words(given.astype(field.dtype).reshape(config.num_crops, -1))
        parts.append(numbers)
    rows = np.concatenate(parts, axis=1)
    widths = widths_of(rows)
    body = np.concatenate([dictionary, to_bits(rows, widths)])
    return widths.astype(np.uint8).tobytes() + head + to_bytes(body)


def unpack_records(
    config: StoreConfig, packed: PackedRecords, crops: np.ndarray
) -> dict[str, np.ndarray]:
    """What `pack_record` was given, for the crops (B, m) of B images: arrays (B, m, ...).

    Class ids and boxes come as int64, values as float32, flips as bool.

    Raises:
        FormatError: a record is malformed.
    """
    fields = fields_of(config)
    found: dict[str, np.ndarray] = {}
    for images in _slices(len(crops), crops.shape[1] * sum(field.count for field in fields)):
        numbers, ids = _take_rows(config, fields, packed, images, crops[images])
        first = 0
        for field in fields:
            own = numbers[..., first : first + field.count]
            first += field.count
            array = ids if field.column == "label.index" else _from_numbers(config, field, own)
            if field.column not in found:
                found[field.column] = np.empty((len(crops), *array.shape[1:]), array.dtype)
            found[field.column][images] = array
    return found


def _slices(num_images: int, numbers_per_image: int) -> Iterator[slice]:
    """All images, few enough at a time; one empty slice where there are none."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, numbers_per_image))
    for first in range(0, max(1, num_images), step):
        yield slice(first, first + step)


def _take_rows(
    config: StoreConfig,
    fields: tuple[Field, ...],
    packed: PackedRecords,
    images: slice,
    crops: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The fields of these crops (B, m, F) and their class ids (B, m, K), both int64."""
    num_fields, num_ids = sum(field.count for field in fields), config.num_ids
    start, num_bytes = packed.start[images], packed.num_bytes[images]
    head = num_fields + (_COUNT_BYTES if num_ids else 0)
    if (num_bytes < head).any():
        raise FormatError(f"a packed record has less than the {head} bytes of its head")
    if len(start) == 0:
        return np.empty((0, crops.shape[1], num_fields), np.int64), np.empty(
            (0, crops.shape[1], num_ids), np.int64
        )
    widths = packed.data[start[:, None] + np.arange(num_fields)].astype(np.int64)
    count = _counts(packed.data, start + num_fields) if num_ids else np.zeros_like(start)
    row_bits, id_width = widths.sum(axis=1), _id_width(config)
    expected = head + (count * id_width + config.num_crops * row_bits + 7) // 8
    if widths.max(initial=0) > MAX_WIDTH or (num_bytes != expected).any():
        raise FormatError("a packed record has another length than its head says")
    dictionary = 8 * (start + head)
    rows = dictionary + count * id_width
    places = (rows[:, None] + crops * row_bits[:, None])[..., None]
    offsets = np.cumsum(widths, axis=1) - widths
    numbers = take_numbers(packed.data, places + offsets[:, None], widths[:, None])
    entries = numbers[..., :num_ids]
    if (entries >= count[:, None, None]).any():
        raise FormatError("a packed record names a class beyond its dictionary")
    ids = take_numbers(packed.data, dictionary[:, None, None] + entries * id_width, id_width)
    return numbers, ids


def _counts(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    return take_numbers(data, 8 * at, 8 * _COUNT_BYTES)


def _id_width(config: StoreConfig) -> int:
    return (config.num_classes - 1).bit_length()


def _index_classes(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different class ids (n,), ordered by the highest rank they reach; places (M, K)."""
    classes, first, inverse = np.unique(ids.T, return_index=True, return_inverse=True)
    order = np.argsort(first // len(ids), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return classes[order], place[inverse.reshape(ids.T.shape)].T


def _value_numbers(config: StoreConfig, value: np.ndarray) -> np.ndarray:
    if config.levels is None:
        return _as_words(quantize(value, config.value_dtype))
    return encode_roots(value, config.levels, _num_others(config))


def _num_others(config: StoreConfig) -> int:
    """Classes that share what the kept ones leave."""
    if isinstance(config.codec, MarginalRenorm):
        return 0
    return config.num_classes - config.num_ids


def _from_numbers(config: StoreConfig, field: Field, numbers: np.ndarray) -> np.ndarray:
    if field.column == "crop.box":
        return numbers
    if field.column == "crop.flip":
        flip: np.ndarray = numbers[..., 0] != 0
        return flip
    if field.column == "label.value":
        if config.levels is not None:
            return decode_roots(numbers, config.levels)
        return dequantize(_from_words(numbers, field.dtype), config.value_dtype)
    (extra,) = (e for e in config.extras if field.column == f"crop.extra.{e.name}")
    array = _from_words(numbers, extra.dtype).reshape(*numbers.shape[:2], *extra.shape)
    native: np.ndarray = array.astype(extra.dtype.newbyteorder("="))
    return native


def _as_words(array: np.ndarray) -> np.ndarray:
    """The bits of each item (M, n) as one whole number, or as two of 32 bits."""
    word = np.dtype(f"<u{min(4, array.dtype.itemsize)}")
    words: np.ndarray = np.ascontiguousarray(array).view(word)
    return words.astype(np.int64)


def _from_words(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    word = np.dtype(f"<u{min(4, dtype.itemsize)}")
    if dtype.kind == "b":
        numbers = numbers & 1  # a byte that is neither 0 nor 1 is no bool
    items: np.ndarray = np.ascontiguousarray(numbers.astype(word)).view(dtype)
    return items
