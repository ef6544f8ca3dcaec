"""The packed record of an image: what goes in comes out, and nothing else is ever believed."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fkd.errors import FormatError
from fkd.labels.quantization import dequantize, quantize
from fkd.labels.sampled import Sampled
from fkd.store import packing
from fkd.store.config import StoreConfig, default_levels
from fkd.store.packing import (
    decode_roots,
    encode_roots,
    encode_sampled_roots,
    pack_record,
    take_numbers,
    to_bits,
    unpack_records,
    widths_of,
)

EXTRAS = {
    "all_bytes": {"dtype": "f8", "shape": [2]},
    "flag": {"dtype": "b1", "shape": []},
    "half": {"dtype": "f2", "shape": [3]},
    "number": {"dtype": "i8", "shape": []},
    "order": {"dtype": "u1", "shape": []},
    "short": {"dtype": "i2", "shape": [1, 2]},
}


def make_config(lab, codec="ms:5", value_dtype="f32", num_crops=37, num_classes=300, extras=None):
    job = lab.Job(
        codec=codec,
        value_dtype=value_dtype,
        num_crops=num_crops,
        num_classes=num_classes,
        extras=extras,
        form="compact",
    )
    return StoreConfig.parse(job.config, "the test")


def make_columns(config: StoreConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """What a teacher may say about the crops of one image."""
    draw, m = np.random.default_rng(seed), config.num_crops
    p = np.sort(draw.dirichlet(np.full(config.num_classes, 0.05), m))[:, ::-1]
    columns = {
        "crop.box": draw.integers(0, 2**32, (m, 4)),
        "crop.flip": draw.random(m) < 0.5,
    }
    for extra in config.extras:
        bits = draw.integers(0, 256, (m, *extra.shape, extra.dtype.itemsize), np.uint8)
        bits = bits & 1 if extra.dtype.kind == "b" else bits
        columns[f"crop.extra.{extra.name}"] = bits.view(extra.dtype).reshape(m, *extra.shape)
    if config.num_ids:
        columns["label.index"] = draw.integers(0, config.num_classes, (m, config.num_ids))
    if config.num_values:
        columns["label.value"] = p[:, : config.num_values].astype(np.float32)
    return columns


def unpack(config: StoreConfig, records: list[bytes], crops: object = None) -> dict:
    every = np.broadcast_to(np.arange(config.num_crops), (len(records), config.num_crops))
    return unpack_records(config, records, every if crops is None else np.array(crops))


@pytest.mark.parametrize(
    "codec", ["ms:5", "mr:3", "smoothing", "hard", "full", "logits", "sigmoid"]
)
@pytest.mark.parametrize("value_dtype", ["u16", "f16", "f32"])
def test_what_is_packed_comes_back(lab, codec, value_dtype):
    if (codec, value_dtype) == ("logits", "u16"):
        value_dtype = "f16"
    config = make_config(lab, codec, value_dtype, extras=EXTRAS)
    columns = make_columns(config)
    found = unpack(config, [pack_record(config, columns)])
    assert found.keys() == columns.keys()
    for name, packed in columns.items():
        if name == "label.value" and config.levels:
            packed = packed / packed.sum(axis=1, keepdims=True) if codec == "mr:3" else packed
            np.testing.assert_allclose(found[name][0], packed, atol=4e-3)
        elif name == "label.value":
            stored = dequantize(quantize(packed, value_dtype), value_dtype)
            np.testing.assert_array_equal(found[name][0], stored)
        else:
            np.testing.assert_array_equal(found[name][0], packed)


def test_some_crops_of_many_images_are_those_of_all_of_them(lab, monkeypatch):
    config = make_config(lab, extras=EXTRAS)
    records = [pack_record(config, make_columns(config, seed)) for seed in range(7)]
    every = unpack(config, records)
    crops = np.random.default_rng(1).integers(0, config.num_crops, (7, 4))
    for at_once in (1 << 18, 100):
        monkeypatch.setattr(packing, "_NUMBERS_AT_ONCE", at_once)
        some = unpack(config, records, crops)
        for name, values in every.items():
            np.testing.assert_array_equal(some[name], values[np.arange(7)[:, None], crops])
            assert some[name].dtype == values.dtype


def test_no_image_at_all(lab):
    found = unpack(make_config(lab), [], np.empty((0, 2), int))
    assert found["label.index"].shape == (0, 2, 5)
    assert found["label.value"].dtype == np.float32


def test_the_length_follows_from_the_head(lab):
    config = make_config(lab, num_crops=3, num_classes=1000)
    columns = make_columns(config) | {
        "label.index": np.array([[7, 9, 5, 1, 2], [7, 9, 1, 5, 2], [9, 7, 5, 1, 999]]),
        "label.value": np.tile(np.float32([0.6, 0.1, 0.1, 0.05, 0.01]), (3, 1)),
        "crop.box": np.tile([1, 2, 3, 200], (3, 1)),
        "crop.flip": np.ones(3, bool),
    }
    record = pack_record(config, columns)
    # Places 0 to 5: ids 7 and 9 reach rank 1, 5 and 1 rank 3, 2 and 999 rank 5.
    assert list(record[:5]) == [1, 1, 2, 2, 3]
    assert list(record[5:11]) == [1, 8, 7, 7, 7, 6]  # p_1 is left out; codes 135, 114, 114, 80, 36
    assert list(record[11:16]) == [1, 2, 2, 8, 1]
    assert list(record[16:20]) == [6, 0, 0, 0]
    assert len(record) == 20 + -(-(6 * 10 + 3 * sum(record[:16])) // 8)


def test_a_single_class_needs_no_bits(lab):
    config = make_config(lab, codec="ms:1", num_classes=1)
    columns = make_columns(config)
    columns["label.value"][:] = 1
    found = unpack(config, [pack_record(config, columns)])
    assert not found["label.index"].any()
    np.testing.assert_allclose(found["label.value"], 1, atol=1e-6)


def test_changed_bytes_are_refused_or_read_as_something_but_never_crash(lab):
    config = make_config(lab, num_crops=5, extras=EXTRAS)
    record = pack_record(config, make_columns(config))
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        changed = bytearray(record)
        changed[draw.integers(len(record))] = draw.integers(256)
        try:
            found = unpack(config, [bytes(changed)])
        except FormatError:
            refused += 1
        else:
            assert found["label.index"].max() < 2**9
    assert 50 < refused < 500


@pytest.mark.parametrize("length", [0, 1, 15, 16, 19, 20, -1])
def test_a_record_of_another_length_is_refused(lab, length):
    config = make_config(lab)
    record = pack_record(config, make_columns(config))
    with pytest.raises(FormatError, match="packed record"):
        unpack(config, [record[:length]])
    with pytest.raises(FormatError, match="another length"):
        unpack(config, [record + b"\0"])


def test_a_place_beyond_the_dictionary_is_refused(lab):
    config = make_config(lab, codec="hard", num_crops=8, num_classes=256)
    columns = make_columns(config)
    columns["label.index"] = np.array([[0], [1], [2], [3], [4], [5], [0], [0]])
    columns["crop.box"][:] = columns["crop.flip"][:] = 0
    record = bytearray(pack_record(config, columns))
    assert list(record[:10]) == [3, 0, 0, 0, 0, 0, 6, 0, 0, 0]
    assert len(record) == 10 + 6 + 3
    record[-1] |= 0b11100000  # the last crop: place 7
    with pytest.raises(FormatError, match="beyond its dictionary"):
        unpack(config, [bytes(record)])


def test_a_width_above_32_bits_is_refused(lab):
    config = make_config(lab, codec="hard", num_crops=8)
    record = bytearray(pack_record(config, make_columns(config)))
    record[1] = 40
    with pytest.raises(FormatError):
        unpack(config, [bytes(record)])


# Numbers of few bits


def pack_bits(bits: np.ndarray) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


tables = st.lists(st.integers(0, 32), min_size=1, max_size=6).flatmap(
    lambda widths: st.lists(
        st.tuples(*[st.integers(0, 2**width - 1) for width in widths]), min_size=1, max_size=9
    )
)


def read_naively(data: bytes, place: int, width: int) -> int:
    """Bit by bit, the lowest first."""
    found = [data[bit // 8] >> bit % 8 & 1 for bit in range(place, place + width)]
    return sum(bit << i for i, bit in enumerate(found))


@given(tables)
def test_packed_numbers_are_where_their_widths_say(table):
    numbers = np.array(table, np.int64)
    widths = widths_of(numbers)
    data = pack_bits(to_bits(numbers, widths))
    assert len(data) == -(-len(table) * widths.sum() // 8)
    place = 0
    for row in table:
        for number, width in zip(row, widths.tolist(), strict=True):
            assert read_naively(data, place, width) == number
            place += width


@given(tables)
def test_any_number_is_read_without_the_others(table):
    numbers = np.array(table, np.int64)
    widths = widths_of(numbers)
    data = np.frombuffer(pack_bits(to_bits(numbers, widths)) or b"\0", np.uint8)
    places = np.arange(len(table))[:, None] * widths.sum() + np.cumsum(widths) - widths
    order = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(take_numbers(data, places[order], widths), numbers[order])


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 255, 256, 2**31, 2**32 - 1])
def test_a_width_is_what_the_number_needs(number):
    assert widths_of(np.array([[number], [0]])) == [number.bit_length()]


def test_wide_rows_are_packed_in_steps(monkeypatch):
    numbers = np.arange(600).reshape(40, 15)
    widths = widths_of(numbers)
    whole = to_bits(numbers, widths)
    monkeypatch.setattr(packing, "_BITS_AT_ONCE", 300)
    np.testing.assert_array_equal(to_bits(numbers, widths), whole)


def test_numbers_beyond_the_end_read_as_anything_but_do_not_fail():
    data = np.array([7], np.uint8)
    assert take_numbers(data, np.array([10**15]), np.array([32])).shape == (1,)


# Probabilities as square roots


TEACHERS = {"flat": 1.0, "usual": 3.0, "sharp": 12.0}  # spread of the logits


def softmax_top(num: int, k: int, num_classes: int, spread: float, seed: int = 0) -> np.ndarray:
    """The k highest probabilities of random logits, float32 (num, k), descending."""
    logits = np.random.default_rng(seed).normal(0, spread, (num, num_classes))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    return -np.sort(-p, axis=1)[:, :k].astype(np.float32)


def divergence(p: np.ndarray, q: np.ndarray, num_others: int) -> np.ndarray:
    """KL of labels with these kept probabilities, the rest spread over the others; naively."""
    total = 0.0
    p, q = p.astype(np.float64), q.astype(np.float64)
    if num_others == 0:
        p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    for a, b in zip(p.T, q.T, strict=True):
        total = total + np.where(a > 0, a * np.log(np.maximum(a, 1e-300) / b), 0)
    if num_others:
        a, b = (np.maximum(1 - x.sum(axis=1), 0) / num_others for x in (p, q))
        total = total + np.where(a > 0, num_others * a * np.log(np.maximum(a, 1e-300) / b), 0)
    return total


def read_back(p: np.ndarray, num_others: int) -> np.ndarray:
    levels = default_levels(p.shape[1])
    return decode_roots(encode_roots(p, levels, num_others), levels)


@pytest.mark.parametrize("spread", TEACHERS.values(), ids=TEACHERS)
@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_the_mean_divergence_is_below_1e_5(k, spread):
    p = softmax_top(3000, k, 1000, spread)
    assert divergence(p, read_back(p, 1000 - k), 1000 - k).mean() < 1e-5


@pytest.mark.parametrize("spread", TEACHERS.values(), ids=TEACHERS)
def test_without_a_rest_the_divergence_is_that_of_the_scaled_labels(spread):
    p = softmax_top(3000, 5, 1000, spread)
    assert divergence(p, read_back(p, 0), 0).mean() < 1e-5


def sampled_top(num: int, k: int, spread: float, seed: int = 0) -> np.ndarray:
    """Values of sampled labels of random logits of 1,000 classes, float32 (num, k)."""
    draw = np.random.default_rng(seed)
    p = torch.softmax(torch.tensor(draw.normal(0, spread, (num, 1000))), dim=1)
    values = Sampled(k).encode(p, draw.random(num)).values
    assert values is not None
    return values


@pytest.mark.parametrize("spread", [0.2, 1.0, 2.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 10, 50])
def test_equal_values_of_sampled_labels_stay_equal(k, spread):
    """Most of a broad label's are, and their mean over draws is only right if none is preferred."""
    p = sampled_top(1000, k, spread)
    levels = default_levels(k)
    q = decode_roots(encode_sampled_roots(p, levels), levels)
    assert divergence(p, q, 0).mean() < 1e-5
    assert ((p[:, 1:] < p[:, :-1]) | (q[:, 1:] == q[:, :-1])).all()
    shares = [x[:, 0].astype(np.float64) / x.sum(axis=1, dtype=np.float64) for x in (p, q)]
    assert abs(np.mean(shares[1] / shares[0]) - 1) < 0.005
    again = decode_roots(encode_sampled_roots(q, levels), levels)
    np.testing.assert_allclose(again, q, atol=3e-7)


def test_no_code_of_ms_5_needs_more_than_8_bits():
    p = np.concatenate([softmax_top(500, 5, 100, spread) for spread in (0.1, 1, 5, 30)])
    edges = np.array([[0.5, 0.5, 0, 0, 0], [0.5, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32)
    for num_others in (0, 95):
        assert encode_roots(np.concatenate([p, edges]), 360, num_others).max() <= 255


descending = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12).map(
    lambda p: np.array([sorted(p, reverse=True)], np.float32)
)


@settings(max_examples=400)
@given(descending.filter(lambda p: p[0, 0] > 1e-6), st.sampled_from([0, 1, 7, 1000]))
def test_order_and_top_1_stay(p, num_others):
    q = read_back(p, num_others)
    assert (q > 0).all()
    assert (np.diff(q) <= 0).all()
    assert q.sum(dtype=np.float64) <= 1 + 1e-6
    first, second = p[0, 0], p[0, 1] if p.shape[1] > 1 else 0
    # Dividing by a sum above 1 may make two neighboring floats equal.
    if first > second * (1 + 1e-6):
        assert p.shape[1] == 1 or q[0, 0] > q[0, 1]
    if num_others:
        tails = [max(0.0, 1 - x.sum(dtype=np.float64)) / num_others for x in (p, q)]
        assert first <= tails[0] * (1 + 1e-5) or q[0, 0] >= tails[1] * (1 - 1e-5)


@settings(max_examples=200)
@given(descending.filter(lambda p: p[0, 0] > 1e-3), st.sampled_from([0, 7, 1000]))
def test_coding_what_was_decoded_changes_nothing(p, num_others):
    """So a store that went compact, plain and compact again has the same labels.

    But where the first share and the rest are within a step of each other: rounding may turn round
    which of them is left out, and then the other one is rounded.
    """
    total = p.sum(dtype=np.float64)
    first, rest = p[0, 0] / max(total, 1.0), max(1.0 - total, 0.0)
    assume(not num_others or abs(first - rest) > 0.01)
    once = read_back(p, num_others)
    np.testing.assert_allclose(read_back(once, num_others), once, atol=3e-7)


@pytest.mark.parametrize("num_others", [0, 995])
def test_a_certain_teacher_stays_certain(num_others):
    p = np.array([[1, 0, 0, 0, 0]], np.float32)
    q = read_back(p, num_others)
    assert q[0, 0] > 0.99999
    assert divergence(p, q, num_others) < 1e-5


def test_equal_probabilities_stay_in_order():
    for k in (2, 3, 5, 10):
        for num_others in (0, 1, 1000):
            for share in (1 / k, 1 / (k + num_others)):
                q = read_back(np.full((1, k), share, np.float32), num_others)
                assert (np.diff(q) <= 0).all()
                assert abs(q - share).max() < 0.02
