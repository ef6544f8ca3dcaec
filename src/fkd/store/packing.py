"""The packed record of one image in a compact store: everything that a plain store keeps per crop.

    1 byte per field   its width w_f in bits, for all crops of the image
    4 bytes            number of classes in the dictionary, if the codec keeps class ids
    bits               the dictionary: each class id in as many bits as num_classes - 1 has
                       crop 0: field 0, field 1, ... field F - 1; crop 1: ...; crop M - 1

A crop's fields are the positions of its K class ids in the dictionary; its K + 1 numbers of
`encode_roots`, or where the codec keeps all classes its V values as they are stored; with stored
geometry top, left, height, width and flip; the bits of its extras. All crops of an image take
equally many bits, so any crop of any image can be read alone, and many at once without a loop.

An image's crops show few different classes (38 of 1,000 on average, where 200 crops kept 5 each),
and its class ids are numbered by the highest rank they reach: the first rank needs 3 bits, not 10.

Bit j of packed bytes is bit j % 8 (1 = lowest) of byte j // 8, and a number begins with its lowest
bit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fkd.errors import FormatError
from fkd.labels.codecs import MarginalRenorm
from fkd.labels.quantization import SCALE_DTYPE, SCALED, VALUE_DTYPES
from fkd.labels.sampled import Sampled
from fkd.store.config import StoreConfig
from fkd.store.values import SCALE, VALUE, read_values, stored_values

MAX_WIDTH = 32  # bits of a number; with the 7 bits before it, it lies within 5 bytes
_COUNT_BYTES = 4
_BITS_AT_ONCE = 1 << 20  # labels of all classes have hundreds of millions of bits per image
_NUMBERS_AT_ONCE = 1 << 18  # keeps what unpacking takes at a few tens of megabytes
_ROUNDING = 1e-6  # of a sum of float32
_LOWERED = (0.0, 0.1, 0.2, 0.3, 0.5, 1.5)  # in steps, tried until the order is right
_ZERO = 0.25  # what code 0 stands for, in steps: a class that may occur has no probability of 0


@dataclass(frozen=True)
class Field:
    """One column of a crop's row, or several of the same kind."""

    column: str
    count: int
    dtype: np.dtype  # of extras and whole values; the width never exceeds it


# Records


def fields_of(config: StoreConfig) -> tuple[Field, ...]:
    """The fields of a crop, in order."""
    fields = []
    if config.num_ids:
        fields.append(Field("label.index", config.num_ids, np.dtype("<u4")))
    if config.levels is not None:
        fields.append(Field(VALUE, config.num_ids + 1, np.dtype("<u4")))
    elif config.value_dtype is not None:
        fields.append(Field(VALUE, config.num_values, VALUE_DTYPES[config.value_dtype]))
    if config.value_dtype == SCALED:
        fields.append(Field(SCALE, 1, SCALE_DTYPE))
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
    if config.value_dtype is not None:
        columns = {**columns, **stored_values(columns[VALUE], config.value_dtype)}
    parts, head = [], b""
    dictionary = np.empty(0, np.uint8)
    for field in fields_of(config):
        column = columns[field.column]
        if field.column == "label.index":
            classes, numbers = _index_classes(column)
            head = len(classes).to_bytes(_COUNT_BYTES, "little")
            dictionary = to_bits(classes[:, None], np.array([_id_width(config)]))
        elif field.column == VALUE and config.levels is not None:
            numbers = _root_numbers(config, config.levels, column)
        else:
            numbers = _as_words(column.astype(field.dtype).reshape(config.num_crops, -1))
        parts.append(numbers)
    rows = np.concatenate(parts, axis=1)
    widths = widths_of(rows)
    body = np.concatenate([dictionary, to_bits(rows, widths)])
    return widths.astype(np.uint8).tobytes() + head + np.packbits(body, bitorder="little").tobytes()


def unpack_records(
    config: StoreConfig, records: Sequence[bytes], crops: np.ndarray
) -> dict[str, np.ndarray]:
    """What `pack_record` was given, for the crops (B, m) of B images: arrays (B, m, ...).

    Class ids and boxes come as int64, values as float32, flips as bool.

    Raises:
        FormatError: a record is malformed.
    """
    fields = fields_of(config)
    columns: dict[str, np.ndarray] = {}
    for images in _slices(len(crops), crops.shape[1] * sum(field.count for field in fields)):
        numbers, ids = _take_rows(config, fields, records[images], crops[images])
        first = 0
        for field in fields:
            part = numbers[..., first : first + field.count]
            first += field.count
            array = ids if field.column == "label.index" else _from_numbers(config, field, part)
            if field.column not in columns:
                columns[field.column] = np.empty((len(crops), *array.shape[1:]), array.dtype)
            columns[field.column][images] = array
    if config.value_dtype is not None:
        columns[VALUE] = read_values(columns, config.value_dtype)
        columns.pop(SCALE, None)
    return columns


def _slices(num_images: int, numbers_per_image: int) -> Iterator[slice]:
    """All images, few enough at a time; one empty slice where there are none."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, numbers_per_image))
    for first in range(0, max(1, num_images), step):
        yield slice(first, first + step)


def _take_rows(
    config: StoreConfig, fields: tuple[Field, ...], records: Sequence[bytes], crops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The fields of these crops (B, m, F) and their class ids (B, m, K), both int64."""
    num_fields, num_ids = sum(field.count for field in fields), config.num_ids
    if not records:
        shape = (0, crops.shape[1])
        return np.empty((*shape, num_fields), np.int64), np.empty((*shape, num_ids), np.int64)
    head = num_fields + (_COUNT_BYTES if num_ids else 0)
    num_bytes = np.array([len(record) for record in records], np.int64)
    if (num_bytes < head).any():
        raise FormatError(f"a packed record has less than the {head} bytes of its head")
    data, start = np.frombuffer(b"".join(records), np.uint8), np.cumsum(num_bytes) - num_bytes
    widths = data[start[:, None] + np.arange(num_fields)].astype(np.int64)
    count = np.zeros_like(start)
    if num_ids:
        count = take_numbers(data, 8 * (start + num_fields), 8 * _COUNT_BYTES)
    row_bits, id_width = widths.sum(axis=1), _id_width(config)
    expected = head + (count * id_width + config.num_crops * row_bits + 7) // 8
    if widths.max(initial=0) > MAX_WIDTH or (num_bytes != expected).any():
        raise FormatError("a packed record has another length than its head says")
    dictionary = 8 * (start + head)
    first_bits = (dictionary + count * id_width)[:, None] + crops * row_bits[:, None]
    offsets = np.cumsum(widths, axis=1) - widths
    numbers = take_numbers(data, first_bits[..., None] + offsets[:, None], widths[:, None])
    entries = numbers[..., :num_ids]
    if (entries >= count[:, None, None]).any():
        raise FormatError("a packed record names a class beyond its dictionary")
    ids = take_numbers(data, dictionary[:, None, None] + entries * id_width, id_width)
    return numbers, ids


def _id_width(config: StoreConfig) -> int:
    return (config.num_classes - 1).bit_length()


def _index_classes(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different class ids (n,) by the highest rank they reach; their positions (M, K)."""
    classes, first, inverse = np.unique(ids.T, return_index=True, return_inverse=True)
    order = np.argsort(first // len(ids), kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return classes[order], position[inverse.reshape(ids.T.shape)].T


def _root_numbers(config: StoreConfig, levels: int, values: np.ndarray) -> np.ndarray:
    if isinstance(config.codec, Sampled):
        return encode_sampled_roots(values, levels)
    renormalized = isinstance(config.codec, MarginalRenorm)
    num_others = 0 if renormalized else config.num_classes - config.num_ids
    return encode_roots(values, levels, num_others)


def _from_numbers(config: StoreConfig, field: Field, numbers: np.ndarray) -> np.ndarray:
    if field.column == "crop.box":
        return numbers
    if field.column == "crop.flip":
        flip: np.ndarray = numbers[..., 0] != 0
        return flip
    if field.column == VALUE and config.levels is not None:
        return decode_roots(numbers, config.levels)
    if field.column == VALUE:
        return _from_words(numbers, field.dtype)
    if field.column == SCALE:
        return _from_words(numbers[..., 0], field.dtype)
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


# Numbers of few bits


def widths_of(numbers: np.ndarray) -> np.ndarray:
    """Bits that the largest number of each column needs, int64 (F,), for numbers (n, F)."""
    largest = numbers.max(axis=0, initial=0).astype(np.float64)
    widths: np.ndarray = np.frexp(largest)[1].astype(np.int64)
    return widths


def to_bits(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The bits of the numbers (n, F) row by row, uint8 0 or 1; column f takes widths[f] bits."""
    column = np.repeat(np.arange(len(widths)), widths)
    first = np.repeat(np.cumsum(widths) - widths, widths)
    shift = np.arange(len(column)) - first
    bits = np.empty((len(numbers), len(column)), np.uint8)
    step = max(1, _BITS_AT_ONCE // max(1, len(column)))
    for first_row in range(0, len(numbers), step):
        rows = slice(first_row, first_row + step)
        bits[rows] = (numbers[rows, column] >> shift) & 1
    return bits.reshape(-1)


def take_numbers(data: np.ndarray, first_bits: np.ndarray, widths: np.ndarray | int) -> np.ndarray:
    """Numbers read from anywhere in packed bytes, int64; the arguments broadcast.

    Args:
        data: uint8, at least one byte. What lies beyond its end reads as anything.
        first_bits: int64, where each number begins, counted from the first bit of `data`.
        widths: int64, bits of each number, at most `MAX_WIDTH`.
    """
    first = first_bits >> 3
    numbers: np.ndarray = data.take(first, mode="clip").astype(np.int64)
    for byte in range(1, (int(np.max(widths, initial=0)) + 14) // 8):
        numbers |= data.take(first + byte, mode="clip").astype(np.int64) << (8 * byte)
    numbers >>= first_bits & 7
    numbers &= (1 << np.asarray(widths)) - 1
    return numbers


# Probabilities as square roots: p_1 >= ... >= p_K, and the rest r = 1 - sum p of the other classes.
# One of the K + 1 shares need not be stored, since they sum to 1. To leave out the largest is best,
# whose rounding would be the coarsest; only p_1 or r can be it. Of sampled labels it is always r,
# which is 0. So a crop takes K + 1 numbers:
#
#     which is left out (1: p_1, 0: r), code of the other one of the two, codes of p_2 ... p_K
#     code of x = round(levels sqrt(x)), x = (code / levels)^2; code 0 is a small number above 0
#
# Rounding a root by d moves the KL divergence by about 2 d^2 wherever it is done: even steps of the
# root share the error out best. A code below 1 / 2 keeps half a bit more than one up to 1 would.


def encode_roots(p: np.ndarray, levels: int, num_others: int) -> np.ndarray:
    """The numbers of n labels, int64 (n, K + 1).

    Args:
        p: (n, K), descending, the first above 0; sums above 1 are scaled to 1.
        levels: steps between a root of 0 and of 1.
        num_others: classes that share the rest; if there are none, p is scaled to sum 1.

    Top-1 stays: where rounding would put another class in front, all codes are lowered by a part of
    a step.
    """
    total = p.sum(axis=1, dtype=np.float64, keepdims=True)
    p = p / (np.maximum(total, 1.0) if num_others else total)
    rest = np.maximum(1.0 - p.sum(axis=1), 0.0) if num_others else np.zeros(len(p))
    return _round_roots(p, rest, p[:, 0] >= rest, levels, num_others)


def encode_sampled_roots(p: np.ndarray, levels: int) -> np.ndarray:
    """The numbers of n sampled labels, int64 (n, K + 1); as `encode_roots`, but all K are stored.

    Many of their values are equal and are rounded alike. What that adds up to would be that of the
    first, which is the lowest class of the equal ones: half of it again, where 50 are equal. As
    decoding scales them to sum 1, none has to be left out, and equal ones stay equal.
    """
    p = p / np.maximum(p.sum(axis=1, dtype=np.float64, keepdims=True), 1.0)
    return _round_roots(p, np.zeros(len(p)), np.zeros(len(p), bool), levels, 0)


def _round_roots(
    p: np.ndarray, rest: np.ndarray, left_out: np.ndarray, levels: int, num_others: int
) -> np.ndarray:
    """The numbers of labels whose first share or, where it is left out (n,), rest has a code."""
    shares = np.column_stack([np.where(left_out, rest, p[:, 0]), p[:, 1:]])
    roots = levels * np.sqrt(shares)
    numbers = np.column_stack([left_out, np.zeros_like(roots)]).astype(np.int64)
    wrong = np.ones(len(p), bool)
    for lowered in _LOWERED:
        numbers[wrong, 1:] = np.maximum(np.rint(roots[wrong] - lowered), 0)
        _keep_first_ahead(numbers, p, levels, num_others)
        wrong = _is_wrong(numbers, p, levels, num_others)
        if not wrong.any():
            break
    return numbers


def decode_roots(numbers: np.ndarray, levels: int) -> np.ndarray:
    """Probabilities float32 (..., K) from the numbers (..., K + 1)."""
    codes = numbers[..., 1:].astype(np.float64)
    codes[codes == 0] = _ZERO
    codes /= levels
    p = codes * codes
    first, rest = p[..., 0], 1.0 - p.sum(axis=-1)
    p[..., 0] = np.where(numbers[..., 0] == 1, rest, first)
    return p.astype(np.float32)


def _keep_first_ahead(numbers: np.ndarray, p: np.ndarray, levels: int, num_others: int) -> None:
    """Where p_1 has a code: above that of p_2 and above each of the other classes, if p_1 is."""
    stored = numbers[:, 0] == 0
    p, kept = p[stored], numbers[stored]
    lowest = np.zeros(len(p), np.int64)
    if p.shape[1] > 1:
        lowest = kept[:, 2] + (p[:, 0] > p[:, 1])
    if num_others:
        # p_1 is above r / others as soon as it is above an even split of what p_2 ... p_K leave.
        split = _even_split(p, num_others)
        others = np.floor(levels * np.sqrt(_even_split(decode_roots(kept, levels), num_others)))
        lowest = np.maximum(lowest, np.where(p[:, 0] > split, others.astype(np.int64) + 1, 0))
    numbers[stored, 1] = np.maximum(kept[:, 1], lowest)


def _even_split(p: np.ndarray, num_others: int) -> np.ndarray:
    left: np.ndarray = 1.0 - p[:, 1:].sum(axis=1, dtype=np.float64)
    return left.clip(min=0.0) / (num_others + 1)


def _is_wrong(numbers: np.ndarray, p: np.ndarray, levels: int, num_others: int) -> np.ndarray:
    """Labels that read back with another class in front or a sum above 1."""
    q = decode_roots(numbers, levels)
    wrong: np.ndarray = q.sum(axis=1, dtype=np.float64) > 1.0 + _ROUNDING
    if p.shape[1] > 1:
        wrong |= (q[:, 0] < q[:, 1]) | ((q[:, 0] == q[:, 1]) & (p[:, 0] > p[:, 1]))
    if num_others:
        wrong |= (q[:, 0] < _even_split(q, num_others)) & (p[:, 0] > _even_split(p, num_others))
    return wrong
