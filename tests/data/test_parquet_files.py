"""Which Parquet files make a data set: complete, of one split, whatever lies beside them."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from fkd.data.sources import ImagesConfig, load, open_source, remarks_of
from fkd.errors import ConfigError, FKDError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, labels=(0, 1), names=None, column="label"):
    """Two images, or as many as there are labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": png(), "path": "x"}] * len(labels), IMAGE)
    table = pa.table({"image": images, column: pa.array(list(labels), pa.int64())})
    if names is not None:
        feature = {"_type": "ClassLabel", "names": names}
        info = {"info": {"features": {column: feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def open_folder(root, **settings):
    return open_source(ImagesConfig(root=str(root), **settings))


def keys(source):
    return [source.key(i).decode() for i in range(len(source))]


class TestNumberedSets:
    @pytest.mark.parametrize(
        ("names", "missing"),
        [
            (["train-00000-of-00003", "train-00002-of-00003"], "number 1"),
            (["train-00000-of-00003", "train-00001-of-00003"], "number 2"),
            (["train-00001-of-00003", "train-00002-of-00003"], "number 0"),
            (["train-00000-of-00002-0a1b2c"], "number 1"),
            (["a/train-00000-of-00002", "b/train-00000-of-00001"], "number 1"),
            (["data-1-of-3", "data-3-of-3"], "number 2"),
            (["data_1of3", "data_3of3"], "number 2"),
            (["train-0000_of_0003", "train-0002_of_0003"], "number 1"),
            (["Part 1 OF 3", "Part 3 OF 3"], "number 2"),
            (["train-00001-of-00002", "test-00000-of-00001"], "number 0"),
        ],
    )
    def test_a_missing_file_is_refused(self, tmp_path, names, missing):
        for name in names:
            write(tmp_path / f"{name}.parquet")
        with pytest.raises(ConfigError, match=rf"of the \d files of .* are missing .*{missing}"):
            open_folder(tmp_path)

    @pytest.mark.parametrize(
        "names",
        [
            ["train-00000-of-00002", "train-00001-of-00002"],
            ["data-1-of-2", "data-2-of-2"],
            ["train-00000-of-00002-0a1b", "train-00001-of-00002-ffff"],
            ["a/train-00000-of-00001", "b/train-00000-of-00001"],
            ["0000", "0001"],
            ["part-00000-aa", "part-00001-aa"],
        ],
    )
    def test_whole_sets_are_read(self, tmp_path, names):
        for name in names:
            write(tmp_path / f"{name}.parquet")
        source = open_folder(tmp_path)
        assert len(source) == 2 * len(names)
        assert remarks_of(source) == []

    def test_a_file_of_another_split_may_be_missing(self, tmp_path):
        write(tmp_path / "train-00000-of-00001.parquet")
        write(tmp_path / "test-00000-of-00002.parquet")
        assert len(open_folder(tmp_path)) == 2

    @pytest.mark.parametrize("other", ["train-00000-of-00002", "train-00000-of-00001-ff"])
    def test_two_versions_of_a_set_are_refused(self, tmp_path, other):
        write(tmp_path / "train-00000-of-00001.parquet")
        write(tmp_path / f"{other}.parquet")
        with pytest.raises(ConfigError, match="two versions of one data set; keep one"):
            open_folder(tmp_path)

    def test_gaps_of_files_that_are_only_numbered_are_remarked(self, tmp_path):
        for name in ("0000", "0001", "0003"):
            write(tmp_path / "train" / f"{name}.parquet")
        assert remarks_of(open_folder(tmp_path)) == [
            "the Parquet files train/N have no number 2; is one missing?"
        ]

    def test_one_file_of_a_set_may_be_given(self, tmp_path):
        write(tmp_path / "train-00001-of-00003.parquet")
        source = open_folder(tmp_path / "train-00001-of-00003.parquet")
        assert len(source) == 2
        assert remarks_of(source) == [f"{source.root} is one file of 3"]


class TestSplits:
    @pytest.mark.parametrize("other", ["dev", "Test", "val2017", "TRAIN", "eval"])
    def test_spelled_otherwise_they_are_not_mixed(self, tmp_path, other):
        write(tmp_path / "train-0.parquet")
        write(tmp_path / f"{other}-0.parquet")
        write(tmp_path / "mnist_test.parquet")
        assert keys(open_folder(tmp_path)) == ["train-0.parquet/000000", "train-0.parquet/000001"]

    @pytest.mark.parametrize(
        "names",
        [
            ("TrainSet", "TestSet"),
            ("trainA", "testA"),
            ("learn", "validate"),
            ("birds TRN", "birds TST"),
            ("trainSet/0", "devSet/0"),
            ("data", "minival"),
        ],
    )
    def test_spelled_as_no_split_usually_is_they_are_refused(self, tmp_path, names):
        for name in names:
            write(tmp_path / f"{name}.parquet")
        with pytest.raises(ConfigError, match="look like different splits of one data set; give"):
            open_folder(tmp_path)
        assert len(open_folder(tmp_path / f"{names[0]}.parquet")) == 2

    def test_one_that_is_not_there_to_choose_is_remarked(self, tmp_path):
        write(tmp_path / "0.parquet")
        (remark,) = remarks_of(open_folder(tmp_path, split="test"))
        assert remark == f"images.split test chooses nothing: {tmp_path} is not divided into splits"
        assert not remarks_of(open_folder(tmp_path))

    def test_none_of_the_name_is_refused_with_those_there(self, tmp_path):
        write(tmp_path / "Train" / "0.parquet")
        write(tmp_path / "Test" / "0.parquet")
        with pytest.raises(ConfigError, match=r"images\.split: .* no 'train', only Test, Train"):
            open_folder(tmp_path)
        assert keys(open_folder(tmp_path, split="Train"))[0] == "Train/0.parquet/000000"

    def test_files_of_no_split_are_left_out_with_a_word(self, tmp_path):
        write(tmp_path / "train-0.parquet")
        write(tmp_path / "more.parquet")
        source = open_folder(tmp_path)
        assert len(source) == 2
        assert remarks_of(source) == ["1 Parquet files of no split are left out (more.parquet)"]


class TestPlace:
    @pytest.mark.parametrize("where", ["", "data", "data/part", "a/b/c"])
    def test_nested_folders_are_found(self, tmp_path, where):
        write(tmp_path / where / "train-0.parquet")
        assert len(open_folder(tmp_path)) == 2

    def test_folders_behind_links_too(self, tmp_path):
        write(tmp_path / "blobs" / "0.parquet")
        (tmp_path / "snapshot").mkdir()
        (tmp_path / "snapshot" / "train").symlink_to(tmp_path / "blobs")
        (tmp_path / "snapshot" / "train-1.parquet").symlink_to(tmp_path / "blobs" / "0.parquet")
        assert len(open_folder(tmp_path / "snapshot")) == 4

    @pytest.mark.parametrize("name", [".cache/train-0.parquet", "out/train-0.parquet"])
    def test_hidden_ones_and_our_own_do_not_count(self, tmp_path, name):
        write(tmp_path / "train-00.parquet")
        write(tmp_path / name)
        (tmp_path / "out").mkdir(exist_ok=True)
        for file in ("config.yaml", "env.json"):
            (tmp_path / "out" / file).touch()
        assert len(open_folder(tmp_path)) == 2

    @pytest.mark.parametrize("where", ["", "train/", "data/"])
    def test_a_table_beside_images_is_no_data_set(self, tmp_path, where):
        for name in ("a", "b"):
            (tmp_path / "train" / name).mkdir(parents=True)
            (tmp_path / "train" / name / "1.png").write_bytes(png())
        table = pa.table({"file_name": ["a/1.png", "b/1.png"], "label": [0, 1]})
        path = tmp_path / where / "metadata.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path)
        source = open_folder(tmp_path / "train") if where == "data/" else open_folder(tmp_path)
        assert source.class_names == ["a", "b"]

    def test_a_table_beside_parquet_files_is_left_out_with_a_word(self, tmp_path):
        write(tmp_path / "a.parquet")
        pq.write_table(pa.table({"file_name": ["x"]}), tmp_path / "metadata.parquet")
        source = open_folder(tmp_path)
        assert len(source) == 2
        assert "1 Parquet files without images are left out (metadata.p" in remarks_of(source)[0]

    def test_pictures_beside_parquet_files_are_left_out_with_a_word(self, tmp_path):
        write(tmp_path / "data" / "train-0.parquet")
        (tmp_path / "example.png").write_bytes(png())
        source = open_folder(tmp_path)
        assert len(source) == 2
        assert "1 image files beside the Parquet files" in remarks_of(source)[0]

    def test_many_pictures_beside_parquet_files_are_a_choice(self, tmp_path):
        write(tmp_path / "data" / "train-0.parquet")
        for i in range(40):
            (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
            (tmp_path / "ab"[i % 2] / f"{i}.png").write_bytes(png())
        with pytest.raises(ConfigError, match=r"holds 40 image files and Parquet files"):
            open_folder(tmp_path)
        assert len(open_folder(tmp_path, format="parquet")) == 2
        assert open_folder(tmp_path, format="folder").class_names == ["a", "b"]


class TestEmpty:
    @pytest.mark.parametrize("single", [True, False])
    def test_no_bytes(self, tmp_path, single):
        path = tmp_path / "x.parquet"
        path.write_bytes(b"")
        with pytest.raises(ConfigError, match=r"x\.parquet is empty \(zero bytes\)"):
            open_folder(path if single else tmp_path)

    @pytest.mark.parametrize("single", [True, False])
    def test_no_rows(self, tmp_path, single):
        write(tmp_path / "x.parquet", labels=())
        with pytest.raises(ConfigError, match=r"x\.parquet has no rows, hence no images"):
            open_folder(tmp_path / "x.parquet" if single else tmp_path)

    def test_one_of_several_may_be(self, tmp_path):
        write(tmp_path / "a.parquet", labels=())
        write(tmp_path / "b.parquet")
        assert len(open_folder(tmp_path)) == 2


@pytest.mark.drill("G6", "damaged Parquet files", failing="untyped")
def test_random_damage_never_escapes_as_another_error(tmp_path, drill):
    draw = np.random.default_rng(0)
    path = tmp_path / "x.parquet"
    write(path, labels=(0, 1, 1), names=["cat", "dog"])
    data, times = path.read_bytes(), drill.times(200, goal=20_000)
    for _ in range(times):
        broken = bytearray(data)
        for position in draw.integers(0, len(data), draw.integers(1, 4)):
            broken[position] = draw.integers(0, 256)
        path.write_bytes(broken[: len(data) if draw.random() < 0.8 else draw.integers(len(data))])
        with contextlib.suppress(FKDError):
            source = open_folder(tmp_path)
            for i in range(len(source)):
                source.label(i)
                with contextlib.suppress(FKDError):
                    load(source, i)
    drill.tried(times)


class TestNames:
    @pytest.mark.parametrize(
        ("second", "difference"),
        [
            (["dog", "cat"], "class 0 is 'dog' and 'cat'"),
            (["cat", "cow"], "class 1 is 'cow' and 'dog'"),
            (["cat", "dog", "cow"], "class 2 is 'cow' and None"),
            (["cat"], "class 1 is None and 'dog'"),
            (None, "only one of them names any"),
        ],
    )
    def test_files_that_name_different_classes_are_refused(self, tmp_path, second, difference):
        write(tmp_path / "a.parquet", labels=(0,), names=["cat", "dog"])
        write(tmp_path / "b.parquet", labels=(0,), names=second)
        with pytest.raises(ConfigError) as caught:
            open_folder(tmp_path)
        for part in ("a.parquet", "b.parquet", "name different classes", difference):
            assert part in str(caught.value)

    def test_names_by_number_are_read(self, tmp_path):
        write(tmp_path / "a.parquet", names={"1": "dog", "0": "cat"})
        assert open_folder(tmp_path).class_names == ["cat", "dog"]

    @pytest.mark.parametrize("names", [["cat", None], {"0": "cat", "7": "dog"}, "cat", 7, [["a"]]])
    def test_names_that_are_none_are_refused(self, tmp_path, names):
        write(tmp_path / "a.parquet", names=names)
        with pytest.raises(ConfigError, match="no list of names; correct the metadata"):
            open_folder(tmp_path)

    @pytest.mark.parametrize("column", ["image", "label"])
    def test_columns_of_the_same_name_are_refused(self, tmp_path, column):
        columns = {"image": pa.array([b"x"]), "label": pa.array([0])}
        arrays, names = [*columns.values(), columns[column]], [*columns, column]
        pq.write_table(pa.table(arrays, names=names), tmp_path / "a.parquet")
        with pytest.raises(ConfigError, match=rf"images\.{column}_column: .* several columns"):
            open_folder(tmp_path)

    def test_names_must_be_unique(self, tmp_path):
        write(tmp_path / "a.parquet", names=["cat", "cat"])
        with pytest.raises(ConfigError, match="two classes the same name"):
            open_folder(tmp_path)

    def test_other_columns_may_differ(self, tmp_path):
        write(tmp_path / "a.parquet")
        table = pa.table(
            {
                "extra": [1],
                "label": pa.array([1], pa.uint8()),
                "image": pa.array([{"bytes": png(), "path": "x"}], IMAGE),
            }
        )
        pq.write_table(table, tmp_path / "b.parquet")
        source = open_folder(tmp_path)
        assert [source.label(i) for i in range(3)] == [0, 1, 1]
