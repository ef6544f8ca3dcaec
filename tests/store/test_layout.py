import json
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load

from fkd.errors import FormatError
from fkd.store.layout import (
    build_header,
    columns_of,
    header_length,
    metadata_of,
    parse_header,
    place,
)


@pytest.mark.parametrize("form", ["plain"], indirect=True, scope="session")
def test_stock_safetensors_reads_a_shard(lab, finished):
    arrays = load((finished / "shards/00001.safetensors").read_bytes())
    expected_keys, content = lab.Job(extras=lab.JITTER).shard(1)
    labeled = content.images.status == 0
    np.testing.assert_array_equal(arrays["crop.box"][labeled], content.records.box[labeled])
    np.testing.assert_array_equal(arrays["label.index"][labeled], content.label.ids[labeled])
    np.testing.assert_array_equal(
        arrays["crop.extra.jitter"][labeled], content.records.extra["jitter"][labeled]
    )
    offsets = arrays["key.offset"]
    keys = [arrays["key.bytes"][a:b].tobytes() for a, b in pairwise(offsets)]
    assert keys == expected_keys


@pytest.mark.parametrize("form", ["compact", "recomputed"], indirect=True, scope="session")
def test_stock_safetensors_reads_a_compact_shard(job, finished):
    arrays = load((finished / "shards/00001.safetensors").read_bytes())
    ends = arrays["record.offset"]
    lengths = np.diff(ends.astype(np.int64))
    assert ends[0] == 0
    assert ends[-1] == len(arrays["record.bytes"])
    np.testing.assert_array_equal(lengths > 0, job.content(1).images.status == 0)
    assert arrays["image.size"].tolist() == [
        size if length else [0, 0]
        for size, length in zip(job.content(1).images.size.tolist(), lengths, strict=True)
    ]


@pytest.mark.parametrize("value_dtype", ["f16", "f32", "i8"])
@pytest.mark.parametrize("form", ["plain", "recomputed"])
def test_only_keys_and_records_move_with_their_lengths(lab, form, value_dtype):
    """Readers share the places of all other columns among shards."""
    job = lab.Job(codec="logits", value_dtype=value_dtype, extras=lab.JITTER, form=form)
    columns = columns_of(job.parsed, False)
    short, long = place(columns, 8, 9, 5), place(columns, 8, 999, 77)
    moved = {name for name in short if short[name].start != long[name].start}
    assert moved <= {"record.bytes"}


@pytest.mark.parametrize("form", ["plain", "compact", "recomputed", "map"])
def test_every_column_starts_at_a_multiple_of_its_item_size(lab, form):
    extras = {"a": {"dtype": "f8", "shape": [3]}, "b": {"dtype": "i2", "shape": []}}
    for num_crops in (1, 3, 9):
        job = lab.Job(num_crops=num_crops, extras=extras | lab.JITTER, form=form)
        for wide in (False, True):
            placed = place(columns_of(job.parsed, wide), 5, 33, 1001)
            header = build_header(placed, metadata_of("0" * 64, 0))
            assert len(header) % 8 == 0
            assert all(column.start % column.dtype.itemsize == 0 for column in placed.values())
            names = ["key.bytes"] + ["record.bytes"] * job.parsed.compact
            assert list(placed)[-len(names) :] == names


def test_ids_take_four_bytes_above_65536_classes(lab):
    def ids(num_classes):
        columns = columns_of(lab.Job(num_classes=num_classes).parsed, False)
        return next(c.dtype for c in columns if c.name == "label.index")

    assert ids(65_536) == np.dtype("<u2")
    assert ids(65_537) == np.dtype("<u4")


def array(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "hole": {"a": array(), "b": array(offsets=(5, 9))},
    "overlap": {"a": array(), "b": array(offsets=(3, 7))},
    "beyond the end": {"a": array(shape=(9,), offsets=(0, 9))},
    "short of the end": {"a": array(shape=(3,), offsets=(0, 3))},
    "not from 0": {"a": array(offsets=(4, 8))},
    "backwards": {"a": array(offsets=(8, 4))},
    "negative": {"a": array(offsets=(-4, 0))},
    "negative shape": {"a": array(shape=(-2, -4), offsets=(0, 8))},
    "shape does not fill": {"a": array(shape=(5,), offsets=(0, 8))},
    "overflowing shape": {"a": array(shape=(2**40, 2**40), offsets=(0, 8))},
    "fractional": {"a": array(offsets=(0, 8.0))},
    "boolean": {"a": array(shape=(True, 8), offsets=(0, 8))},
    "three offsets": {"a": array(offsets=(0, 4, 8))},
    "unknown dtype": {"a": array(dtype="F4")},
    "unknown member": {"a": array() | {"more": 1}},
    "no dtype": {"a": {"shape": [8], "data_offsets": [0, 8]}},
    "not an object": {"a": 5},
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": array(shape=(8,), offsets=(0, 8))},
    "metadata a list": {"__metadata__": [], "a": array(shape=(8,), offsets=(0, 8))},
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_arrays_must_tile_the_data_exactly(header):
    with pytest.raises(FormatError, match="shard"):
        parse_header(json.dumps(header).encode(), 8, "shard")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b" {}",
        b"[]",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b"\xff\xff",
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=range(9),
)
def test_malformed_json_in_a_header_is_refused(header):
    with pytest.raises(FormatError, match="shard"):
        parse_header(header, 0, "shard")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 9])
def test_a_header_longer_than_the_file_or_the_limit_is_refused(length):
    with pytest.raises(FormatError, match=f"header of {length} bytes"):
        header_length(length.to_bytes(8, "little") + b"{}      ", "shard")


def test_a_file_too_short_for_a_length_is_refused():
    with pytest.raises(FormatError):
        header_length(b"\x00\x00", "shard")
