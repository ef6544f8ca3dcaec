"""The packed record of an image: what goes in comes out, and nothing else is ever believed."""

import numpy as np
import pytest

from fkd.errors import FormatError
from fkd.labels.quantization import dequantize, quantize
from fkd.store import compact
from fkd.store.compact import PackedRecords, pack_record, unpack_records
from fkd.store.config import StoreConfig

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
    packed = PackedRecords.join([memoryview(record) for record in records])
    return unpack_records(config, packed, every if crops is None else np.array(crops))


@pytest.mark.parametrize("codec", ["ms:5", "mr:3", "smoothing", "hard", "full", "logits"])
@pytest.mark.parametrize("value_dtype", ["u16", "f16", "f32"])
def test_what_is_packed_comes_back(lab, codec, value_dtype):
    if (codec, value_dtype) == ("logits", "u16"):
        value_dtype = "f16"
    config = make_config(lab, codec, value_dtype, extras=EXTRAS)
    columns = make_columns(config)
    found = unpack(config, [pack_record(config, columns)])
    assert found.keys() == columns.keys()
    for name, given in columns.items():
        if name == "label.value" and config.levels:
            given = given / given.sum(axis=1, keepdims=True) if codec == "mr:3" else given
            np.testing.assert_allclose(found[name][0], given, atol=4e-3)
        elif name == "label.value":
            stored = dequantize(quantize(given, value_dtype), value_dtype)
            np.testing.assert_array_equal(found[name][0], stored)
        else:
            np.testing.assert_array_equal(found[name][0], given)


def test_some_crops_of_many_images_are_those_of_all_of_them(lab, monkeypatch):
    config = make_config(lab, extras=EXTRAS)
    records = [pack_record(config, make_columns(config, seed)) for seed in range(7)]
    every = unpack(config, records)
    crops = np.random.default_rng(1).integers(0, config.num_crops, (7, 4))
    for at_once in (1 << 18, 100):
        monkeypatch.setattr(compact, "_NUMBERS_AT_ONCE", at_once)
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
