"""Stores of every released format, byte for byte; and the reader that docs/format.md prints.

A change that makes `test_the_bytes_of_version_1`, `_2` or `_3` fail is a change of the format: it
needs a new version number and a new golden folder, and the old one must stay readable.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from fkd.store import LabelStore, verify_store

GOLDEN = Path(__file__).parent / "golden" / "v1"
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
ROOT_HASH = "4e3edd165f7477bdfb0fb30b75ce302fc0e9180e64300d56ea4217f36c8e1159"


def golden_job(lab):
    return lab.Job(num_images=5, num_crops=9, images_per_shard=3, extras=lab.JITTER)


V2 = {
    "compact": "2a5a5c4ed65dbf006b19dfe3298b36a06396945f346db0b74dbf2cdfd720ba35",
    "recomputed": "5056b0ec6c3ab3c71bc1a9997988ce98895d8f1c68f3fd55a80127294d98c689",
}


def golden_v2_job(lab, form):
    return lab.Job(
        num_images=5,
        num_crops=9,
        num_classes=300,
        codec="ms:3",
        images_per_shard=3,
        extras=lab.JITTER,
        form=form,
    )


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "lock"
    }


def test_the_bytes_of_version_1(lab, tmp_path):
    assert golden_job(lab).run(tmp_path / "s") == ROOT_HASH
    assert contents(tmp_path / "s") == contents(GOLDEN)


def test_the_golden_store_is_sound():
    assert verify_store(GOLDEN) == []
    assert LabelStore.open(GOLDEN).root_hash == ROOT_HASH


def test_the_values_of_version_1(lab):
    store = LabelStore.open(GOLDEN)
    assert store.keys() == golden_job(lab).keys
    entry = store["n00/caf\u00e9 00003.jpg"]
    assert entry.size == (61, 199)
    assert entry.records.box[:2].tolist() == [[11, 11, 12, 42], [8, 28, 29, 59]]
    assert entry.records.flip.tolist() == [True, False] * 4 + [True]
    assert entry.records.extra["jitter"][0].tolist() == [31.0, 32.0, 33.0, 34.0]
    assert entry.records.extra["jitter_order"][:3].tolist() == [31, 48, 65]
    assert entry.label.ids[:3].tolist() == [[1, 2], [8, 9], [5, 6]]
    np.testing.assert_allclose(entry.label.values[0], [0.415, 0.2075], atol=8.2e-6)
    assert store.images([1]).crc32.tolist() == [2654435761]
    assert store.images([1]).num_bytes.tolist() == [1001]
    assert store.images([3]).status.tolist() == [1]


def test_the_reader_in_the_specification_reads_the_golden_store(lab):
    source = re.search(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)[1]
    reader: dict = {}
    exec(source, reader)
    manifest = reader["open_store"](GOLDEN)
    store = LabelStore.open(GOLDEN)
    for key in [k for row, k in enumerate(store.keys()) if row != 3]:
        box, flip, index, value = reader["read_image"](GOLDEN, manifest, key)
        entry = store[key]
        np.testing.assert_array_equal(box, entry.records.box)
        np.testing.assert_array_equal(flip, entry.records.flip)
        np.testing.assert_array_equal(index, entry.label.ids)
        np.testing.assert_array_equal(value.astype(np.float32), entry.label.values)


@pytest.mark.parametrize("form", V2)
def test_the_bytes_of_version_2(lab, tmp_path, form):
    folder = GOLDEN.parent / f"v2-{form}"
    assert golden_v2_job(lab, form).run(tmp_path / "s") == V2[form]
    assert contents(tmp_path / "s") == contents(folder)
    assert verify_store(folder) == []


@pytest.mark.parametrize("form", V2)
def test_the_values_of_version_2(lab, form):
    store = LabelStore.open(GOLDEN.parent / f"v2-{form}")
    entry = store["n00/caf\u00e9 00003.jpg"]
    assert entry.size == (61, 199)
    boxes = {
        "compact": [[11, 11, 12, 42], [8, 28, 29, 59]],
        "recomputed": [[2, 3, 56, 56], [4, 134, 56, 63]],
    }
    assert entry.records.box[:2].tolist() == boxes[form]
    assert entry.records.extra["jitter"][0].tolist() == [31.0, 32.0, 33.0, 34.0]
    assert entry.label.ids[:2].tolist() == [[131, 132, 133], [148, 149, 150]]
    np.testing.assert_allclose(entry.label.values[0], [0.415, 0.2075, 0.10375], atol=2e-3)
    assert store.images([3]).status.tolist() == [1]


@pytest.mark.parametrize("form", V2)
def test_the_reader_in_the_specification_reads_version_2(lab, form):
    path = GOLDEN.parent / f"v2-{form}"
    reader: dict = {}
    for source in re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL):
        exec(source, reader)
    manifest, store = reader["open_store"](path), LabelStore.open(path)
    for key in [k for row, k in enumerate(store.keys()) if row != 3]:
        box, flip, index, value = reader["read_compact_image"](path, manifest, key)
        entry = store[key]
        np.testing.assert_array_equal(box, entry.records.box)
        np.testing.assert_array_equal(flip, entry.records.flip)
        np.testing.assert_array_equal(index, entry.label.ids)
        np.testing.assert_allclose(value, entry.label.values, rtol=1e-6)


V3 = GOLDEN.parent / "v3"
V3_ROOT_HASH = "48777c1c86c3c0909f16d20ba13787b08d0a73e38d651cccc3d2a58ee700adb4"


def golden_v3_job(lab):
    """Maps of 2 x 3 cells."""
    return lab.Job(
        num_images=5,
        num_crops=6,
        num_classes=300,
        codec="top:3",
        value_dtype="f16",
        images_per_shard=3,
        form="map",
        grid=[2, 3],
    )


def test_the_bytes_of_version_3(lab, tmp_path):
    assert golden_v3_job(lab).run(tmp_path / "s") == V3_ROOT_HASH
    assert contents(tmp_path / "s") == contents(V3)
    assert verify_store(V3) == []


def test_the_values_of_version_3(lab):
    store = LabelStore.open(V3)
    entry = store["n00/caf\u00e9 00003.jpg"]
    assert store.grid == (2, 3)
    assert entry.size == (61, 199)
    assert entry.records.box.tolist() == [
        [0, 0, 31, 67],
        [0, 66, 31, 67],
        [0, 132, 31, 67],
        [30, 0, 31, 67],
        [30, 66, 31, 67],
        [30, 132, 31, 67],
    ]
    assert not entry.records.flip.any()
    assert entry.label.ids[:2].tolist() == [[131, 132, 133], [148, 149, 150]]
    np.testing.assert_allclose(entry.label.values[0], [8.3, 4.15, 2.075], rtol=5e-4)
    assert store.images([3]).status.tolist() == [1]


def test_the_reader_in_the_specification_reads_version_3():
    reader: dict = {}
    for source in re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL):
        exec(source, reader)
    manifest, store = reader["open_store"](V3), LabelStore.open(V3)
    for key in [k for row, k in enumerate(store.keys()) if row != 3]:
        index, value = reader["read_map"](V3, manifest, key)
        np.testing.assert_array_equal(index.reshape(6, 3), store[key].label.ids)
        np.testing.assert_array_equal(value.reshape(6, 3), store[key].label.values)


@pytest.mark.parametrize("number", [0, 1])
def test_the_specification_names_the_fields_of_a_commit(number):
    commit = (GOLDEN / f"commits/{number:05d}.json").read_text()
    described = re.search(r"^    (\{\"bytes\".*\})$", FORMAT.read_text(), re.MULTILINE)
    names = re.findall(r'"(\w+)":', described[1])
    assert re.findall(r'"(\w+)":', commit) == names
