"""Parquet files: keys, labels and class names, memory, threads, processes, damage."""

import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fkd.data import parquet
from fkd.data.parquet import ParquetSource
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, ImageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value % 256, value // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, first, count, *, labels="int", names=None, row_group_size=4):
    """Images number first .. first + count - 1, whose two first pixel bytes are that number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    columns = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in numbers]}
    if labels == "int":
        columns["label"] = [n % 3 for n in numbers]
    elif labels is not None:
        columns["label"] = labels
    table = pa.table(columns)
    if names is not None:
        feature = {"_type": "ClassLabel", "names": names}
        info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=row_group_size)


def number(source, i):
    pixel = load(source, i).image[:, 0, 0].tolist()
    return pixel[0] + 256 * pixel[1]


def test_rows_of_several_files_in_the_order_of_their_keys(tmp_path):
    write(tmp_path / "train-00001-of-00002.parquet", 10, 7)
    write(tmp_path / "train-00000-of-00002.parquet", 0, 10)
    source = open_source(ImagesConfig(root=str(tmp_path)))
    keys = [source.key(i) for i in range(len(source))]
    assert keys == sorted(set(keys))
    assert keys[0] == b"train-00000-of-00002.parquet/000000"
    assert keys[10] == b"train-00001-of-00002.parquet/000000"
    assert [number(source, i) for i in range(17)] == list(range(17))
    assert [source.label(i) for i in range(17)] == [i % 3 for i in range(17)]
    assert source.name(16).endswith("train-00001-of-00002.parquet row 6")


def test_order_of_files_is_the_order_of_keys_even_if_one_name_begins_another(tmp_path):
    """ "/" sorts after ".": the longer name comes first."""
    write(tmp_path / "a.parquet", 0, 2)
    write(tmp_path / "a.parquet.parquet", 2, 2)
    source = ParquetSource(str(tmp_path))
    keys = [source.key(i) for i in range(4)]
    assert keys == sorted(keys)
    assert [number(source, i) for i in range(4)] == [2, 3, 0, 1]


def test_split_is_chosen_by_file_or_folder_name(tmp_path):
    write(tmp_path / "data" / "train-0.parquet", 0, 2)
    write(tmp_path / "data" / "test-0.parquet", 2, 3)
    assert len(open_source(ImagesConfig(root=str(tmp_path)))) == 2
    assert len(open_source(ImagesConfig(root=str(tmp_path), split="test"))) == 3
    with pytest.raises(ConfigError, match=r"images\.split: .* no 'validation', only test, train"):
        open_source(ImagesConfig(root=str(tmp_path), split="validation"))
    write(tmp_path / "other" / "validation" / "0.parquet", 2, 1)
    assert len(ParquetSource(str(tmp_path / "other"), split="validation")) == 1


def test_one_file(tmp_path):
    write(tmp_path / "test.parquet", 0, 5)
    source = open_source(ImagesConfig(root=str(tmp_path / "test.parquet")))
    assert len(source) == 5
    assert source.key(4) == b"test.parquet/000004"


class TestClasses:
    def test_names_come_from_the_metadata(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 4, names=["cat", "dog", "cow", "never seen"])
        source = ParquetSource(str(tmp_path))
        assert source.class_names == ["cat", "dog", "cow", "never seen"]

    def test_numbers_without_names_are_called_by_number(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 3, labels=[0, 11, None])
        source = ParquetSource(str(tmp_path))
        assert source.class_names == [str(i) for i in range(12)]
        assert [source.label(i) for i in range(3)] == [0, 11, -1]

    def test_text_labels_are_sorted(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 3, labels=["dog", None, "cat"])
        source = ParquetSource(str(tmp_path))
        assert source.class_names == ["cat", "dog"]
        assert [source.label(i) for i in range(3)] == [1, -1, 0]

    def test_dictionary_encoded_text(self, tmp_path):
        labels = pa.array(["b", "a", "b"]).dictionary_encode()
        write(tmp_path / "x.parquet", 0, 3, labels=labels)
        source = ParquetSource(str(tmp_path))
        assert source.class_names == ["a", "b"]
        assert [source.label(i) for i in range(3)] == [1, 0, 1]

    def test_no_labels_on_request(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 3, labels=None)
        source = ParquetSource(str(tmp_path), label_column=None)
        assert source.class_names is None
        assert source.label(2) == -1

    def test_label_beyond_the_names(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 3, names=["cat", "dog"])
        with pytest.raises(
            ConfigError, match=r"column 'label' of .* has label 2, but names for only 2"
        ):
            ParquetSource(str(tmp_path))

    def test_labels_of_another_kind(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 2, labels=[0.5, 1.0])
        with pytest.raises(ConfigError, match="holds double, not classes"):
            ParquetSource(str(tmp_path))


class TestBadFiles:
    def test_missing_column_names_those_there(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 2, labels=None)
        with pytest.raises(
            ConfigError, match=r"images\.label_column: .*'label', only image; .*null"
        ):
            ParquetSource(str(tmp_path))
        with pytest.raises(
            ConfigError, match=r"images\.image_column: .* no column 'img', only image"
        ):
            ParquetSource(str(tmp_path), image_column="img", label_column=None)

    def test_column_that_holds_no_images(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 2)
        with pytest.raises(ConfigError, match=r"column 'label' .* holds int64, not encoded images"):
            ParquetSource(str(tmp_path), image_column="label")

    def test_files_of_different_data_sets(self, tmp_path):
        write(tmp_path / "a.parquet", 0, 2)
        write(tmp_path / "b.parquet", 0, 2, labels=None)
        with pytest.raises(
            ConfigError, match=r"b\.parquet and .*a\.parquet have different columns"
        ):
            ParquetSource(str(tmp_path))

    def test_not_parquet(self, tmp_path):
        (tmp_path / "x.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(ConfigError, match=r"x\.parquet cannot be read as Parquet"):
            ParquetSource(str(tmp_path))

    def test_folder_without_files(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no \.parquet file"):
            open_source(ImagesConfig(root=str(tmp_path), format="parquet"))

    def test_row_with_a_path_only(self, tmp_path):
        table = pa.table(
            {
                "image": pa.array(
                    [{"bytes": None, "path": "x.png"}, None],
                    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                )
            }
        )
        pq.write_table(table, tmp_path / "x.parquet")
        source = ParquetSource(str(tmp_path), label_column=None)
        for i in (0, 1):
            with pytest.raises(ImageError, match=rf"x\.parquet row {i} has no image bytes"):
                source.read(i)

    def test_damaged_pages_are_the_fault_of_an_image(self, tmp_path):
        file = tmp_path / "x.parquet"
        write(file, 0, 8)
        source = ParquetSource(str(tmp_path))
        data = bytearray(file.read_bytes())
        data[4:200] = b"\xff" * 196
        file.write_bytes(bytes(data))
        with pytest.raises(ImageError, match=r"x\.parquet row 0 cannot be read"):
            source.read(0)

    def test_vanished_file(self, tmp_path):
        write(tmp_path / "x.parquet", 0, 8)
        source = ParquetSource(str(tmp_path))
        (tmp_path / "x.parquet").unlink()
        with pytest.raises(ImageError, match=r"x\.parquet row 3 cannot be read"):
            source.read(3)

    def test_without_pyarrow_the_error_says_what_to_install(self, tmp_path, monkeypatch):
        write(tmp_path / "x.parquet", 0, 2)
        monkeypatch.setattr(parquet, "pa", None)
        with pytest.raises(ConfigError, match=r"pip install fkd\[hf\]"):
            open_source(ImagesConfig(root=str(tmp_path)))


def test_plain_binary_column(tmp_path):
    table = pa.table({"jpeg": [png(0), png(1)], "class": ["a", "b"]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetSource(str(tmp_path), image_column="jpeg", label_column="class")
    assert [number(source, i) for i in range(2)] == [0, 1]


def test_cache_is_bounded_and_keeps_what_was_used_last(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", 0, 40, row_group_size=4)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1000)  # two or three row groups of 4 x 75 bytes
    source = ParquetSource(str(tmp_path))
    for i in np.random.default_rng(0).permutation(40):
        assert number(source, int(i)) == i
        loaded = source._cells._loaded
        assert (0, i // 4) in loaded
        assert len(loaded) == 1 or sum(values.nbytes for values in loaded.values()) <= 1000
    monkeypatch.setattr(parquet, "CACHE_BYTES", 0)
    assert [number(source, i) for i in (0, 39, 0)] == [0, 39, 0]


def test_many_threads(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", 0, 30)
    write(tmp_path / "b.parquet", 30, 30)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 500)
    source = ParquetSource(str(tmp_path))
    order = np.random.default_rng(0).permutation(60).tolist() * 3
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: number(source, i), order)) == order


class Numbers(Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return number(self.source, i)


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")  # Python 3.12
def test_forked_loader_workers(tmp_path):
    write(tmp_path / "x.parquet", 0, 20)
    source = ParquetSource(str(tmp_path))
    assert number(source, 7) == 7  # files are open and rows cached before the workers start
    loader = DataLoader(
        Numbers(source), batch_size=5, num_workers=2, multiprocessing_context="fork"
    )
    assert torch.cat(list(loader)).tolist() == list(range(20))


def test_survives_pickling(tmp_path):
    write(tmp_path / "x.parquet", 0, 9)
    source = ParquetSource(str(tmp_path))
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 2000  # neither files nor rows
    assert [number(copy, i) for i in range(9)] == list(range(9))
    assert copy.class_names == source.class_names
