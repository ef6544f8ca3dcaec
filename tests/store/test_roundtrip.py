"""Whatever can be written comes back, and the bytes are a function of the content alone."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fkd.crops.records import CropRecords
from fkd.crops.sampling import CropConfig, content_streams, sample_boxes
from fkd.labels.codec_names import parse_codec
from fkd.labels.encoded import Encoded
from fkd.store import (
    ImageFacts,
    LabeledCrops,
    LabelStore,
    StoreWriter,
    form_members,
    keys_digest,
    verify_store,
)
from fkd.store.config import EXTRA_DTYPES, has_value_dtype
from fkd.store.geometry import crops_member
from fkd.store.packing import decode_roots, encode_roots, encode_sampled_roots
from fkd.store.values import read_values, stored_values

extra_columns = st.dictionaries(
    st.from_regex("[a-z][a-z0-9_]{0,8}", fullmatch=True),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(EXTRA_DTYPES),
            "shape": st.lists(st.integers(1, 3), max_size=2),
        }
    ),
    max_size=3,
)
codecs = st.sampled_from(
    [
        ("ms:3", "u16"),
        ("mr:1", "f16"),
        ("sampled:2", "u16"),
        ("hard", "u16"),
        ("full", "f32"),
        ("logits", "f32"),
        ("logits", "i8"),
    ]
)

FORMS = [
    ("plain", {}),
    ("compact", {"geometry": "stored"}),
    ("compact", {"geometry": "recomputed", "crops": crops_member(CropConfig())}),
]


@st.composite
def stores(draw):
    keys = sorted(draw(st.sets(st.binary(min_size=1, max_size=12), min_size=1, max_size=9)))
    codec, value_dtype = draw(codecs)
    form, geometry = draw(st.sampled_from(FORMS))
    config = {
        "num_images": len(keys),
        "num_crops": draw(st.integers(1, 11)),
        "num_classes": draw(st.integers(3, 5)),
        "codec": codec,
        "extras": draw(extra_columns),
        "images_per_shard": draw(st.integers(1, 5)),
        "keys_sha256": keys_digest(keys),
        "anything": draw(st.one_of(st.text(), st.floats(allow_nan=False, allow_infinity=False))),
    }
    if not has_value_dtype(form, parse_codec(codec), config["num_classes"]):
        value_dtype = None
    config |= form_members(form, parse_codec(codec), config["num_classes"], value_dtype) | geometry
    names = st.lists(st.text(), min_size=config["num_classes"], max_size=config["num_classes"])
    config["class_names"] = draw(names)
    return config, draw(contents(config, keys))


@st.composite
def contents(draw, config, keys):
    n, m, c = len(keys), config["num_crops"], config["num_classes"]
    k = {"ms:3": 3, "mr:1": 1, "sampled:2": 2, "hard": 1}.get(config["codec"], 0)
    v = {"ms:3": 3, "mr:1": 1, "sampled:2": 2, "hard": 0}.get(config["codec"], c)
    compact = config["form"] == "compact"
    logits = config["codec"] == "logits"
    values = st.floats(-50 if logits else 0, 50 if logits else 1, width=32)
    size = draw(arrays(np.uint32, (n, 2), elements=st.integers(1, 80_000)))
    crc32 = draw(arrays(np.uint32, n))
    length = draw(arrays(np.uint64, n, elements=st.integers(0, 2**40)))
    box = np.stack([np.zeros((n, m, 2), np.int64), np.broadcast_to(size[:, None], (n, m, 2))], 2)
    box, flip = box.reshape(n, m, 4), draw(arrays(bool, (n, m)))
    if config.get("geometry") == "recomputed":
        numbers = np.broadcast_to(np.arange(m), (n, m))
        box, flip = sample_boxes(CropConfig(), content_streams(0, crc32, length), size, numbers)
    value = draw(arrays(np.float32, (n, m, v), elements=values)) if v else None
    if compact and k and v:
        value = np.minimum(-np.sort(-value, axis=2) + np.float32(2**-9), np.float32(1))
    extra = {
        name: draw(arrays(np.dtype(e["dtype"]), (n, m, *e["shape"])))
        for name, e in config["extras"].items()
    }
    # No class twice in a label: some class, and those that follow it.
    first = draw(arrays(np.int64, (n, m, 1), elements=st.integers(0, c - 1)))
    ids = (first + np.arange(k)) % c if k else None
    images = ImageFacts(
        crc32=crc32,
        num_bytes=length,
        size=size,
        status=np.zeros(n, np.uint8),
    )
    return keys, LabeledCrops(images, CropRecords(box, flip, extra), Encoded(ids, value))


def write(path: Path, config: dict, keys: list[bytes], content: LabeledCrops, order: int) -> None:
    with StoreWriter.open(path, config) as writer:
        for number in writer.pending()[::order]:
            rows = slice(*writer.shard_range(number))
            writer.commit(number, keys[rows], content[rows])
        writer.finish()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=stores())
def test_every_store_comes_back_as_it_was_written(lab, data):
    """Written forwards and backwards."""
    config, (keys, content) = data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        write(path, config, keys, content, 1)
        write(Path(folder, "b"), config, keys, content, -1)
        assert lab.folder_digest(path) == lab.folder_digest(Path(folder, "b"))
        assert verify_store(path) == []
        check_store(LabelStore.open(path), config, keys, content)


def check_store(store: LabelStore, config: dict, keys: list[bytes], content: LabeledCrops) -> None:
    assert store.config == config
    assert store.keys() == keys
    read = store.read(store.rows(keys))
    np.testing.assert_array_equal(read.records.box, content.records.box)
    np.testing.assert_array_equal(read.records.flip, content.records.flip)
    for name, values in content.records.extra.items():
        np.testing.assert_array_equal(read.records.extra[name], values)
    np.testing.assert_array_equal(read.images.crc32, content.images.crc32)
    np.testing.assert_array_equal(read.images.num_bytes, content.images.num_bytes)
    np.testing.assert_array_equal(read.images.size, content.images.size)
    assert (read.label.ids is None) == (content.label.ids is None)
    if content.label.ids is not None:
        np.testing.assert_array_equal(read.label.ids, content.label.ids)
    if content.label.values is not None:
        np.testing.assert_array_equal(read.label.values, as_stored(config, content.label.values))


def as_stored(config: dict, value: np.ndarray) -> np.ndarray:
    """What is left of values."""
    if "levels" in config:
        others = config["num_classes"] - value.shape[-1] if config["codec"][:2] == "ms" else 0
        rows = value.reshape(-1, value.shape[-1])
        if config["codec"] == "sampled:2":
            numbers = encode_sampled_roots(rows, 360)
        else:
            numbers = encode_roots(rows, 360, others)
        return decode_roots(numbers, 360).reshape(value.shape)
    return read_values(stored_values(value, config["value_dtype"]), config["value_dtype"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reading_some_crops_equals_reading_all_of_them(lab, finished, seed):
    draw = np.random.default_rng(seed)
    labeled = np.setdiff1d(np.arange(20), [3, 14])
    rows = draw.choice(labeled, 9)
    crops = draw.integers(0, 3, (9, 2))
    store = LabelStore.open(finished)
    some, every = store.read(rows, crops), store.read(rows)
    at = (np.arange(9)[:, None], crops)
    np.testing.assert_array_equal(some.label.values, every.label.values[at])
    for name, values in every.records.extra.items():  # label maps have none
        np.testing.assert_array_equal(some.records.extra[name], values[at])
