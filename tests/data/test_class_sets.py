"""Images with several classes each, in every source, and what wraps sources."""

import io
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from fkd.data.arrays import ArraySource
from fkd.data.class_sets import ClassSets, is_multi_label, known_labels, labels_of
from fkd.data.numbered import NumberedSource
from fkd.data.sources import ImagesConfig, ImageSource, as_source, open_source
from fkd.data.subset import SubsetSource
from fkd.errors import ConfigError


def png(i=0):
    data = io.BytesIO()
    Image.new("RGB", (6, 6), (9 * i, 0, 0)).save(data, "PNG")
    return data.getvalue()


def sets_of(source):
    return [labels_of(source, i).tolist() for i in range(len(source))]


def open_parquet(tmp_path, *columns, names=None, feature="List"):
    for number, column in enumerate(columns):
        images = [png(i) for i in range(len(column))]
        table = pa.table({"image": images, "label": column})
        if names is not None:
            label = {"names": names, "_type": "ClassLabel"}
            of_list = [label] if feature == "list" else {"feature": label, "_type": feature}
            document = pa.array([{"info": {"features": {"label": of_list}}}]).to_pylist()[0]
            import json

            table = table.replace_schema_metadata({"huggingface": json.dumps(document)})
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    return open_source(ImagesConfig(root=str(tmp_path)))


def open_tar(tmp_path, notes):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i, (kind, text) in enumerate(notes):
            files = {f"images/{i}.png": png(i)} | (
                {f"images/{i}.{kind}": text.encode()} if kind else {}
            )
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return open_source(ImagesConfig(root=str(tmp_path)))


class InMemory:
    def __init__(self, targets, classes=None):
        self.targets = targets
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return Image.new("RGB", (4, 4)), self.targets[i]


class TestParquet:
    @pytest.mark.parametrize("feature", ["List", "Sequence", "list"])
    def test_lists_of_class_labels(self, tmp_path, feature):
        labels = [[2, 0], [], [1], [2, 2]]
        source = open_parquet(tmp_path, labels, names=["a", "b", "c"], feature=feature)
        assert is_multi_label(source)
        assert source.class_names == ["a", "b", "c"]
        assert sets_of(source) == [[0, 2], [], [1], [2]]
        assert [source.label(i) for i in range(4)] == [-1] * 4  # there is no single class

    def test_lists_of_text_nulls_and_several_files(self, tmp_path):
        source = open_parquet(tmp_path, [["b", "a"], None], pa.nulls(1), [["c"], []])
        assert source.class_names == ["a", "b", "c"]
        assert sets_of(source) == [[0, 1], [], [], [2], []]

    @pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.large_list(pa.int64())])
    def test_lists_of_numbers_without_names(self, tmp_path, kind):
        source = open_parquet(tmp_path, pa.array([[4, 1], [-1], [None]], kind))
        assert source.class_names == ["0", "1", "2", "3", "4"]
        assert sets_of(source) == [[1, 4], [], []]
        assert source.labels_are_ids

    @pytest.mark.parametrize(
        ("columns", "names", "message"),
        [
            ([[[0], [1]], [0, 1]], None, "holds lists of classes and that of .* does not"),
            ([[[0, 3]]], ["a", "b"], "has label 3, but names for only 2 classes"),
            ([[[-4]]], None, "has label -4"),
            ([[[0, 1, 1], [1, 0, 0]]], None, "3 zeros and ones for each image"),
            ([[[0, 1], [1, 1]]], ["a", "b"], "2 zeros and ones for each image"),
            ([[[True, False]]], None, "holds bool, not classes"),
        ],
    )
    def test_what_is_no_class(self, tmp_path, columns, names, message):
        with pytest.raises(ConfigError, match=message):
            open_parquet(tmp_path, *columns, names=names)

    def test_one_class_is_as_ever(self, tmp_path):
        source = open_parquet(tmp_path, [1, 0])
        assert not is_multi_label(source)
        assert sets_of(source) == [[1], [0]]


class TestTar:
    @pytest.mark.parametrize(
        ("notes", "names", "sets"),
        [
            ([("cls", "1 3"), ("cls", ""), ("cls", "2")], "0123", [[1, 3], [], [2]]),
            ([("cls", "1,2"), (None, "")], "012", [[1, 2], []]),
            ([("cls", "red\nbig\n"), ("json", "[]")], ["big", "red"], [[0, 1], []]),
            ([("json", '{"labels": ["b", "a"]}'), ("json", '"a"')], "ab", [[0, 1], [0]]),
            ([("json", '{"classes": [3]}'), ("json", '{"label": 1}')], "0123", [[3], [1]]),
        ],
    )
    def test_lists_in_notes(self, tmp_path, notes, names, sets):
        source = open_tar(tmp_path, notes)
        assert is_multi_label(source)
        assert source.class_names == list(names)
        assert sets_of(source) == sets

    def test_one_class_is_as_ever(self, tmp_path):
        """A name with a space is one name, and lists of boxes are no classes."""
        source = open_tar(tmp_path, [("cls", "golden retriever"), ("json", '{"labels": [[1, 2]]}')])
        assert not is_multi_label(source)
        assert source.class_names == ["golden retriever", "images"]

    @pytest.mark.parametrize(
        ("notes", "message"),
        [
            ([("json", "[1, 0, 1]"), ("json", "[0, 0, 1]")], "3 zeros and ones for each image"),
            ([("cls", "1 0 1"), ("cls", "0 0 1")], "3 zeros and ones for each image"),
            *(
                (
                    [("json", text), ("cls", "1 2")],
                    rf"a\.tar/images/0\.json holds {found}, which is neither",
                )
                for text, found in [
                    ("[1.0, 2]", r"1\.0"),
                    ('{"labels": [null, "cat"]}', "None"),
                    ("[1, true]", "True"),
                    ("[[1], 2]", r"\[1\]"),
                    ('["cat", ""]', "''"),
                ]
            ),
        ],
    )
    def test_lists_that_are_no_classes_are_refused(self, tmp_path, notes, message):
        """As no class, or as the first two, they would be learned."""
        with pytest.raises(ConfigError, match=message):
            open_tar(tmp_path, notes)

    def test_numbers_beside_names_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="write all of them alike"):
            open_tar(tmp_path, [("json", "[1, 2]"), ("cls", "cat")])


CELLS = {
    "numbers": ["0 2", "", "1"],
    "numbers with commas": ['"0,2"', "", "1"],
    "names": ["ant|cat", "", "bee"],
    "names with semicolons": ["ant; cat", "", "bee"],
}


class TestList:
    @pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
    def test_a_cell_may_hold_several(self, cells, tmp_path):
        for i in range(3):
            (tmp_path / f"{i}.png").write_bytes(png(i))
        lines = [f"{i}.png,{cell}" for i, cell in enumerate(cells)]
        (tmp_path / "list.csv").write_text("\n".join(["image,label", *lines]))
        source = open_source(ImagesConfig(root=str(tmp_path / "list.csv")))
        assert is_multi_label(source)
        assert sets_of(source) == [[0, 2], [], [1]]
        assert [source.label(i) for i in range(3)] == [-1, -1, -1]

    def test_one_class_each_is_not_several(self, tmp_path):
        (tmp_path / "0.png").write_bytes(png())
        (tmp_path / "list.csv").write_text("image,label\n0.png,black cat\n")
        source = open_source(ImagesConfig(root=str(tmp_path / "list.csv")))
        assert not is_multi_label(source)
        assert (source.class_names, source.label(0)) == (["black cat"], 0)


class TestDatasetsObject:
    @pytest.mark.parametrize("chosen", [[0, 1, 2], [2, 0]])
    def test_lists_of_classes_follow_a_selection(self, chosen):
        rows = {
            "image": [{"bytes": png(i), "path": None} for i in range(3)],
            "label": [[2, 0], [], [1]],
        }
        label = datasets.ClassLabel(names=["ant", "bee", "cat"])
        kinds = datasets.Features({"image": datasets.Image(), "label": datasets.List(label)})
        source = as_source(datasets.Dataset.from_dict(rows, features=kinds).select(chosen))
        assert source.class_names == ["ant", "bee", "cat"]
        assert sets_of(source) == [[[0, 2], [], [1]][i] for i in chosen]


class TestInMemory:
    @pytest.mark.parametrize(
        "targets",
        [
            [[2, 0], [], [1]],
            [(2, 0), (), (1,)],
            np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
            torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        ],
    )
    def test_lists_and_rows_of_zeros_and_ones(self, targets):
        source = ArraySource(InMemory(targets))
        assert is_multi_label(source)
        assert source.class_names == ["0", "1", "2"]
        assert sets_of(source) == [[0, 2], [], [1]]
        assert ArraySource(InMemory(targets, ["a", "b", "c", "d"])).class_names[3] == "d"

    def test_classes_that_no_image_has_have_a_column(self):
        source = ArraySource(InMemory(np.array([[1, 0, 0]])))
        assert source.class_names == ["0", "1", "2"]

    def test_unknown_numbers_are_refused(self):
        with pytest.raises(ConfigError, match="names for only 2 classes"):
            ArraySource(InMemory([[0, 2]], ["a", "b"]))

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            ([[0, 1, 1], [1, 0, 0]], "3 zeros and ones for each image"),
            ([[0, 2], 1], "nor a list of them for each"),
            ([["ant"], ["bee", "cat"]], "nor a list of them for each"),
        ],
    )
    def test_lists_that_are_no_classes_are_refused(self, targets, message):
        with pytest.raises(ConfigError, match=message):
            ArraySource(InMemory(targets))


def test_wrappers_say_the_same():
    source = ArraySource(InMemory([[2, 0], [], [1]]))
    part = SubsetSource(source, [0, 2])
    assert is_multi_label(part)
    assert sets_of(part) == [[0, 2], [1]]
    numbered = NumberedSource(source, on_request=True)
    assert is_multi_label(numbered)
    assert sets_of(numbered) == [[0, 2], [], [1]]


def test_a_source_of_a_user_needs_nothing_new():
    class Own:
        root, class_names = "own", ["a", "b"]

        def __len__(self):
            return 2

        def key(self, i):
            return b"%d" % i

        def label(self, i):
            return (1, -1)[i]

        def name(self, i):
            return str(i)

        def read(self, i):
            return png(i)

    own = Own()
    assert isinstance(own, ImageSource)
    assert not is_multi_label(own)
    assert sets_of(own) == [[1], []]
    own.multi_label, own.labels = True, lambda i: [[1, 0], []][i]
    assert sets_of(own) == [[0, 1], []]
    assert known_labels(own, 0, np.array([5, -1])).tolist() == [5]


def test_sets_are_kept_flat():
    sets = ClassSets([[3, 1, 3], [], [0]])
    assert len(sets) == 3
    assert [sets[i].tolist() for i in range(3)] == [[1, 3], [], [0]]
