"""Labels of every type: the right class, or one sentence; never a traceback, never a million."""

import datetime
import decimal

import pytest

from fkd.data.class_ids import MOST_UNNAMED
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

WIDTHS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
WIDTHS += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


def open_labels(folder, *files, types=None):
    """A source of Parquet files with these labels each."""
    for number, labels in enumerate(files):
        if not isinstance(labels, pa.Array):
            labels = pa.array(labels, types)
        table = pa.table({"image": pa.array([b"x"] * len(labels), pa.binary()), "label": labels})
        pq.write_table(table, folder / f"{number}.parquet")
    return open_source(ImagesConfig(root=str(folder)))


def labels_of(source):
    return [source.label(i) for i in range(len(source))]


@pytest.mark.parametrize("kind", WIDTHS, ids=str)
class TestIntegers:
    def test_of_every_width(self, tmp_path, kind):
        source = open_labels(tmp_path, [0, None, 2, 1], types=kind)
        assert source.class_names == ["0", "1", "2"]
        assert labels_of(source) == [0, -1, 2, 1]

    def test_in_a_dictionary(self, tmp_path, kind):
        labels = pa.array([3, 1, None, 3], kind).dictionary_encode()
        assert labels_of(open_labels(tmp_path, labels)) == [3, 1, -1, 3]

    def test_only_nulls_are_no_classes(self, tmp_path, kind):
        source = open_labels(tmp_path, [None, None], types=kind)
        assert source.class_names is None
        assert labels_of(source) == [-1, -1]

    def test_widths_may_differ_between_files(self, tmp_path, kind):
        first = pa.array([0, 1], pa.int64())
        assert labels_of(open_labels(tmp_path, first, pa.array([2], kind))) == [0, 1, 2]

    def test_the_largest_value_is_an_answer(self, tmp_path, kind):
        """127 and 255 may be classes; what is larger is no class of one image."""
        largest = 2 ** (kind.bit_width - (1 if str(kind).startswith("int") else 0)) - 1
        if largest < MOST_UNNAMED:
            source = open_labels(tmp_path, [largest], types=kind)
            assert len(source.class_names) == largest + 1
        else:
            with pytest.raises(ConfigError, match=r"images\.label_column: .*0\.parquet"):
                open_labels(tmp_path, [largest], types=kind)


@pytest.mark.parametrize("value", [MOST_UNNAMED, 65535, 5_000_000, 2**31, 2**40, 2**63 - 1])
def test_a_number_that_is_no_class_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=rf"{value}") as caught:
        open_labels(tmp_path, [value])
    assert "images.label_column" in str(caught.value)


@pytest.mark.parametrize("value", [-2, -100, -(2**40), -(2**63)])
def test_minus_one_means_none_and_other_negative_numbers_nothing(tmp_path, value):
    with pytest.raises(ConfigError, match=rf"has label {value}, but a class is a number from 0"):
        open_labels(tmp_path, [value, 1])
    assert labels_of(open_labels(tmp_path, [-1, 1])) == [-1, 1]


def test_many_images_may_have_many_classes(tmp_path):
    source = open_labels(tmp_path, list(range(MOST_UNNAMED + 5)))
    assert len(source.class_names) == MOST_UNNAMED + 5


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["b", None, "a", "b"]),
        pa.array(["b", None, "a", "b"], pa.large_string()),
        pa.array(["b", None, "a", "b"], pa.string_view()),
        pa.array(["b", None, "a", "b"]).dictionary_encode(),
        pa.array(["b", None, "a", "b"], pa.large_string()).dictionary_encode(),
    ],
    ids=lambda labels: str(labels.type).split("<")[0],
)
def test_text_of_every_type(tmp_path, labels):
    source = open_labels(tmp_path, labels, pa.array(["c"]))
    assert source.class_names == ["a", "b", "c"]
    assert labels_of(source) == [1, -1, 0, 1, 2]


def test_truth_values(tmp_path):
    source = open_labels(tmp_path, [True, None, False])
    assert source.class_names == ["false", "true"]
    assert labels_of(source) == [1, -1, 0]


@pytest.mark.parametrize("others", [None, [0, 1], ["a", "b"]])
def test_a_column_of_nulls_has_no_labels(tmp_path, others):
    files = [pa.nulls(2)] + ([] if others is None else [others])
    source = open_labels(tmp_path, *files)
    assert (source.class_names is None) == (others is None)
    assert labels_of(source) == [-1, -1, 0, 1][: 2 * len(files)]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([0.5, 1.0]),
        pa.array([1.0, None], pa.float32()),
        pa.array([1.0, 2.0], pa.float16()),
        pa.array([1.5, 1.5]).dictionary_encode(),
        pa.array([b"a", b"b"]),
        pa.array([[[1]], [[2]]]),
        pa.array([[0.5], [2.0]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([decimal.Decimal("1.0"), None]),
        pa.array([datetime.date(2020, 1, 1)] * 2),
        pa.array([datetime.datetime(2020, 1, 1)] * 2),
    ],
    ids=lambda labels: str(labels.type).split("<")[0],
)
def test_what_is_no_class_is_one_sentence(tmp_path, labels):
    with pytest.raises(ConfigError, match="not classes; name a column of integers or text"):
        open_labels(tmp_path, labels)


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (["a"], [1], "text in some files and numbers in others"),
        (["a"], [True], "truth values in some files and text in others"),
        ([1], [True], "truth values in some files and numbers in others"),
    ],
)
def test_text_numbers_and_truth_values_do_not_mix(tmp_path, first, second, kinds):
    with pytest.raises(ConfigError, match=kinds):
        open_labels(tmp_path, first, second)


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_empty_text_names_no_class(tmp_path, text):
    with pytest.raises(ConfigError, match=r"empty text \(image 1\).* use null"):
        open_labels(tmp_path, ["a", text])


def test_damaged_labels_are_one_sentence(tmp_path):
    path = tmp_path / "0.parquet"
    labels = pa.array([f"class {i}" for i in range(500)])
    table = pa.table({"image": pa.array([b"x"] * 500, pa.binary()), "label": labels})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=r"column 'label' of .*0\.parquet cannot be read"):
        open_source(ImagesConfig(root=str(tmp_path)))
