"""Folders that `datasets` has saved, read without it; the oracle is `datasets` itself."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pytest

from fkd.data.arrow import ArrowSource
from fkd.data.parquet import ParquetSource
from fkd.data.sources import ImagesConfig, load, open_source, remarks_of
from fkd.errors import ConfigError, ImageError
from tests.data.kinds import as_dataset, files_below


@pytest.fixture(scope="module")
def dataset(image_folder) -> datasets.Dataset:
    return as_dataset(files_below(image_folder))


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("saved") / "photos"
    dataset.save_to_disk(path, num_shards=3)
    return str(path)


@pytest.fixture
def saved(finished, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(finished, tmp_path / "photos")


def source_of(path, **options):
    return open_source(ImagesConfig(root=str(path), **options))


def same_images(source, dataset) -> bool:
    """Whether the images and classes of a source are those of a data set, in this order."""
    rows = dataset.cast_column("image", datasets.Image(decode=False))
    labels = [-1 if label is None else label for label in rows["label"]]
    return [row["bytes"] for row in rows["image"]] == [
        source.read(i) for i in range(len(source))
    ] and labels == [source.label(i) for i in range(len(source))]


def test_every_row_is_an_image_with_its_class(finished, dataset):
    source = source_of(finished)
    assert isinstance(source, ArrowSource)
    assert same_images(source, dataset)
    assert source.class_names == dataset.features["label"].names
    assert source.key(5) == b"data-00001-of-00003.arrow/000000"
    assert source.name(5).endswith("data-00001-of-00003.arrow row 0")
    assert remarks_of(source) == []
    pixels = load(source, 0).image.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, np.asarray(dataset[0]["image"]))


def test_the_package_is_not_needed(finished):
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from fkd.data.sources import ImagesConfig, open_source\n"
        f"print(len(open_source(ImagesConfig(root={finished!r})).read(14)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 50


def test_splits_are_chosen_and_are_folders_of_their_own(dataset, tmp_path):
    parts = datasets.DatasetDict(train=dataset, val=dataset.select([3, 1]))
    parts.save_to_disk(tmp_path / "d")
    assert same_images(source_of(tmp_path / "d"), dataset)
    for root in (tmp_path / "d", tmp_path / "d" / "val"):
        assert same_images(source_of(root, split="val"), parts["val"])
        assert source_of(root, split="val").key(1) == b"data-00000-of-00001.arrow/000001"
    with pytest.raises(ConfigError, match=r"images.split: .* has no 'test', only train, val"):
        source_of(tmp_path / "d", split="test")
    assert remarks_of(source_of(tmp_path / "d" / "train", split="test")) == [
        f"images.split test chooses nothing: {tmp_path / 'd' / 'train'} is not divided into splits"
    ]


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")  # of `sort`
def test_selections_are_saved_in_their_order(dataset, tmp_path):
    for number, changed in enumerate(
        (dataset.shuffle(seed=3), dataset.sort("label", reverse=True), dataset.select([9, 2, 4]))
    ):
        changed.save_to_disk(tmp_path / str(number))
        assert same_images(source_of(tmp_path / str(number)), changed)


def test_labels_may_be_missing_and_columns_may_be_called_otherwise(dataset, tmp_path):
    rows = dataset.map(lambda row, i: {"label": None if i % 4 == 1 else i % 3}, with_indices=True)
    rows = rows.cast_column("label", dataset.features["label"])
    rows.rename_columns({"image": "img", "label": "kind"}).save_to_disk(tmp_path / "d")
    options = {"image_column": "img", "label_column": "kind"}
    assert same_images(source_of(tmp_path / "d", **options), rows)
    plain = source_of(tmp_path / "d", image_column="img", label_column=None)
    assert plain.class_names is None
    with pytest.raises(ConfigError, match=r"images.image_column: .*'image', only .*img"):
        source_of(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"images.label_column: .*'label', only .*kind"):
        source_of(tmp_path / "d", image_column="img")


def test_columns_and_classes_are_those_of_parquet(dataset, tmp_path):
    """One code reads both: of each column of classes the same names and labels."""
    count = len(dataset)
    numbers = [i % 5 for i in range(count)]
    columns = {
        "numbers": numbers,
        "text": [f"class {i}" for i in numbers],
        "truth": [i > 2 for i in numbers],
        "category": pa.array([f"c{i}" for i in numbers]).dictionary_encode().to_pylist(),
    }
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    dataset.save_to_disk(tmp_path / "d")
    dataset.to_parquet(tmp_path / "d.parquet")
    for name in (*columns, "label"):
        ours = ArrowSource(str(tmp_path / "d"), label_column=name)
        theirs = ParquetSource(str(tmp_path / "d.parquet"), label_column=name)
        assert ours.class_names == theirs.class_names
        assert ours.labels_are_ids == theirs.labels_are_ids
        assert [ours.label(i) for i in range(count)] == [theirs.label(i) for i in range(count)]


def test_rows_with_a_path_are_read_from_their_files(image_folder, tmp_path):
    """As `datasets` keeps images that were never embedded."""
    paths = [str(image_folder / "ant" / "0.png"), str(tmp_path / "gone.png"), "0.png"]
    cells = [*({"bytes": None, "path": path} for path in paths), None]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(cells, kind)})
    (tmp_path / "d").mkdir()
    with pa.ipc.new_stream(str(tmp_path / "d" / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "d" / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "a.arrow"}]})
    )
    source = source_of(tmp_path / "d", label_column=None)
    assert source.read(0) == (image_folder / "ant" / "0.png").read_bytes()
    for row, reason in ((1, "gone.png .* cannot be read"), (2, "no image bytes"), (3, "no image")):
        with pytest.raises(ImageError, match=reason):
            source.read(row)


def damage_last(saved, change) -> None:
    path = saved / "data-00002-of-00003.arrow"
    path.write_bytes(change(path.read_bytes()))


def state_of(**members):
    def change(saved) -> None:
        path = saved / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | members))

    return change


DAMAGED = {
    "state.json is missing or damaged": lambda saved: (saved / "state.json").unlink(),
    "is missing or damaged": lambda saved: (saved / "state.json").write_text("{"),
    "by an old version of datasets": state_of(_indices_data_files=[{"filename": "i.arrow"}]),
    "names no files": state_of(_data_files=[{"filename": "../../etc/passwd"}]),
    "state.json of .* names no files": state_of(_data_files=[]),
    "00002-of-00003.arrow cannot be read as Arrow .no such file": lambda saved: (
        saved / "data-00002-of-00003.arrow"
    ).unlink(),
    "it is cut short": lambda saved: damage_last(saved, lambda data: data[:-8]),
    "00002-of-00003.arrow cannot be read as Arrow .it is cut": lambda saved: damage_last(
        saved, lambda data: b""
    ),
    "cannot be read as Arrow": lambda saved: damage_last(
        saved, lambda data: b"\xff" * 40 + data[40:]
    ),
}


@pytest.mark.parametrize("sentence", DAMAGED)
def test_damaged_folders_are_named(sentence, saved):
    DAMAGED[sentence](saved)
    with pytest.raises(ConfigError, match=f"images.root: .*{sentence}"):
        source_of(saved, format="arrow")


def test_offsets_that_lead_out_of_the_file_are_refused_not_followed(finished, tmp_path):
    """Every byte of the columns' layout is changed once; nothing may crash or hang."""
    source = source_of(finished)
    data = bytearray((tmp_path.parent / finished / "data-00000-of-00003.arrow").read_bytes())
    images = b"".join(source.read(i) for i in range(5))
    folder = shutil.copytree(finished, tmp_path / "d")
    start = data.index(images[:64])
    for place in range(max(0, start - 160), start):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        (folder / "data-00000-of-00003.arrow").write_bytes(changed)
        try:
            opened = source_of(folder)
            for i in range(len(opened)):
                opened.read(i)
        except (ConfigError, ImageError):
            continue


def test_a_spawned_worker_maps_the_files_for_itself(finished):
    source = source_of(finished)
    data = pickle.dumps(source)
    assert len(data) < 5_000  # no images in it
    assert pickle.loads(data).read(7) == source.read(7)


def test_other_json_files_do_not_make_a_folder_a_saved_data_set(image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    (folder / "state.json").write_text('{"epoch": 3}')
    (folder / "dataset_dict.json").write_text("[]")
    assert source_of(folder).key(0) == b"ant/0.png"
