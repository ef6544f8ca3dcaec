"""A store of every form, byte for byte; and the readers that docs/format.md prints.

A change that makes `test_the_bytes_of_a_store` fail is a change of the format. Before a release the
folders are written anew by

    WRITE_GOLDEN=1 python -m pytest tests/store/test_golden.py

and after it the format needs a new version number and new folders, and the old ones must stay
readable.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fkd.labels.projection import Projection
from fkd.store import LabelStore, verify_store

GOLDEN = Path(__file__).parent / "golden"
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
KEY = "n00/caf\u00e9 00003.jpg"
STORED_BOXES = [[11, 11, 12, 42], [8, 28, 29, 59]]
DRAWN_BOXES = [[6, 44, 36, 40], [10, 79, 42, 50]]
FORMS = ("plain", "compact", "recomputed", "map")
CELLS = [[0, 0, 31, 67], [0, 66, 31, 67], [0, 132, 31, 67]]
CELLS += [[30, 0, 31, 67], [30, 66, 31, 67], [30, 132, 31, 67]]


PROJECTION = {
    "entries": "signs",
    "generator": "philox4x32-10",
    "num_features": 40,
    "seed": 7,
}


def golden_job(lab, form):
    if form == "features":
        kind = {"codec": "logits", "value_dtype": "i8", "num_classes": 12, "outputs": "features"}
        shape = {"num_images": 5, "num_crops": 9, "images_per_shard": 3}
        return lab.Job(**shape, **kind, extras=lab.JITTER, projection=PROJECTION)
    if form == "plain":
        return lab.Job(num_images=5, num_crops=9, images_per_shard=3, extras=lab.JITTER)
    options = {"num_images": 5, "num_classes": 300, "codec": "ms:3", "images_per_shard": 3}
    if form == "map":
        return lab.Job(**options, num_crops=6, form="map", grid=[2, 3])
    return lab.Job(**options, num_crops=9, extras=lab.JITTER, form=form)


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "lock"
    }


def readable(form) -> tuple[LabelStore, list[bytes]]:
    """The golden store of a form, and the keys of its images that have labels."""
    store = LabelStore.open(GOLDEN / form)
    return store, [key for row, key in enumerate(store.keys()) if row != 3]


@pytest.fixture(scope="module")
def reader() -> dict:
    """The functions that docs/format.md defines; they use nothing of fkd."""
    names: dict = {}
    for source in re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL):
        assert "fkd" not in source.replace('"fkd-label-store"', "")
        exec(source, names)
    return names


@pytest.fixture(scope="module", params=[*FORMS, "features"])
def form(request) -> str:
    """Every form that a store can have, and one of features as whole numbers with a scale."""
    return request.param


def test_the_bytes_of_a_store(lab, form, tmp_path):
    root_hash = golden_job(lab, form).run(tmp_path / "s")
    if os.environ.get("WRITE_GOLDEN"):
        shutil.rmtree(GOLDEN / form, ignore_errors=True)
        shutil.copytree(tmp_path / "s", GOLDEN / form, ignore=shutil.ignore_patterns("lock"))
    assert contents(tmp_path / "s") == contents(GOLDEN / form)
    assert verify_store(GOLDEN / form) == []
    assert LabelStore.open(GOLDEN / form).root_hash == root_hash


def test_the_values_of_the_plain_form(lab):
    store, _ = readable("plain")
    assert store.keys() == golden_job(lab, "plain").keys
    entry = store[KEY]
    assert entry.size == (61, 199)
    assert entry.records.box[:2].tolist() == STORED_BOXES
    assert entry.records.flip.tolist() == [True, False] * 4 + [True]
    assert entry.records.extra["jitter"][0].tolist() == [31.0, 32.0, 33.0, 34.0]
    assert entry.records.extra["jitter_order"][:3].tolist() == [31, 48, 65]
    assert entry.label.ids[:3].tolist() == [[1, 2], [8, 9], [5, 6]]
    np.testing.assert_allclose(entry.label.values[0], [0.415, 0.2075], atol=8.2e-6)
    assert store.images([1]).crc32.tolist() == [2654435761]
    assert store.images([1]).num_bytes.tolist() == [1001]
    assert store.images([3]).status.tolist() == [1]


@pytest.mark.parametrize(
    ("folder", "boxes"), [("compact", STORED_BOXES), ("recomputed", DRAWN_BOXES)]
)
def test_the_values_of_the_compact_form(folder, boxes):
    store, _ = readable(folder)
    entry = store[KEY]
    assert entry.size == (61, 199)
    assert entry.records.box[:2].tolist() == boxes
    assert entry.records.extra["jitter"][0].tolist() == [31.0, 32.0, 33.0, 34.0]
    assert entry.label.ids[:2].tolist() == [[131, 132, 133], [148, 149, 150]]
    np.testing.assert_allclose(entry.label.values[0], [0.415, 0.2075, 0.10375], atol=2e-3)
    assert store.images([3]).status.tolist() == [1]


def test_the_values_of_features():
    store, _ = readable("features")
    entry = store[KEY]
    assert not store.is_of_classes
    assert store.provenance.projection == Projection(num_features=40, dims=12, seed=7)
    scale = 6.84375 / 127
    np.testing.assert_allclose(entry.label.values[0, :2], [1.3, -2.85], atol=0.51 * scale)
    steps = entry.label.values[0] / entry.label.values[0].min() * 127
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert store.images([3]).status.tolist() == [1]


def test_the_values_of_label_maps():
    store, _ = readable("map")
    entry = store[KEY]
    assert store.grid == (2, 3)
    assert entry.size == (61, 199)
    assert entry.records.box.tolist() == CELLS
    assert not entry.records.flip.any()
    assert entry.label.ids[:2].tolist() == [[131, 132, 133], [148, 149, 150]]
    np.testing.assert_allclose(entry.label.values[0], [8.3, 4.15, 2.075], rtol=5e-4)
    assert store.images([3]).status.tolist() == [1]


@pytest.mark.parametrize(
    ("folder", "function"),
    [
        ("plain", "read_image"),
        ("compact", "read_compact_image"),
        ("recomputed", "read_compact_image"),
    ],
)
def test_the_reader_in_the_specification_reads_crops(reader, folder, function):
    opened, (store, keys) = reader["open_store"](GOLDEN / folder), readable(folder)
    for key in keys:
        box, flip, index, value = reader[function](GOLDEN / folder, *opened, key)
        entry = store[key]
        np.testing.assert_array_equal(box, entry.records.box)
        np.testing.assert_array_equal(flip, entry.records.flip)
        np.testing.assert_array_equal(index, entry.label.ids)
        np.testing.assert_array_equal(value.astype(np.float32), entry.label.values)


def test_the_reader_in_the_specification_reads_features(reader):
    opened, (store, keys) = reader["open_store"](GOLDEN / "features"), readable("features")
    for key in keys:
        box, flip, value = reader["read_features"](GOLDEN / "features", *opened, key)
        np.testing.assert_array_equal(box, store[key].records.box)
        np.testing.assert_array_equal(flip, store[key].records.flip)
        np.testing.assert_array_equal(value, store[key].label.values)


def test_the_reader_in_the_specification_reads_label_maps(reader):
    opened, (store, keys) = reader["open_store"](GOLDEN / "map"), readable("map")
    for key in keys:
        index, value = reader["read_map"](GOLDEN / "map", *opened, key)
        np.testing.assert_array_equal(index.reshape(6, 3), store[key].label.ids)
        np.testing.assert_array_equal(value.reshape(6, 3), store[key].label.values)


@pytest.mark.parametrize("number", [0, 1])
def test_the_specification_names_the_fields_of_a_commit(form, number):
    commit = (GOLDEN / form / f"commits/{number:05d}.json").read_text()
    described = re.search(r"^    (\{\"bytes\".*\})$", FORMAT.read_text(), re.MULTILINE)
    names = re.findall(r'"(\w+)":', described[1])
    assert re.findall(r'"(\w+)":', commit) == names
