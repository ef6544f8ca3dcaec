"""Files that a report shows: images as they are, results as tables."""

import base64
import json

import pytest
from PIL import Image

from fkd.errors import ConfigError
from fkd.viewing.figures import read_figure, tables_of

SVG = (
    '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
)


def rows_of(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_images_are_whole_inside_the_page(tmp_path):
    (tmp_path / "cross-entropy_matrix.svg").write_text(SVG)
    Image.new("RGB", (3, 2)).save(tmp_path / "b.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "c.JPG", format="JPEG")
    svg = read_figure(str(tmp_path / "cross-entropy_matrix.svg"))
    assert svg.title == "cross entropy matrix"
    kind, _, data = svg.uri.partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert base64.b64decode(data).decode() == SVG
    assert read_figure(str(tmp_path / "b.png")).uri.startswith("data:image/png;base64,")
    assert read_figure(str(tmp_path / "c.JPG")).uri.startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"<svg>", "not what its name says"),
        ("a.svg", b"\x89PNG\r\n", "not what its name says"),
        ("a.jpg", b"", "not what its name says"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"\xff", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.pdf", b"%PDF", "no kind that a page can show"),
        ("a.html", b"<html>", "no kind that a page can show"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_figure(str(tmp_path / name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.svg").mkdir()
    for name in ("none.png", "folder.svg"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_figure(str(tmp_path / name))


def test_results_of_several_models_are_rows():
    results = [
        {"model": "a", "top1": 71.25, "set": {"name": "real", "images": 50_000}},
        {"model": "b", "top1": 70.0, "ece": 0.01, "per_class": {str(i): i for i in range(20)}},
    ]
    first, nested = tables_of(results)
    assert first.columns == ["model", "top1", "set.name", "set.images", "ece"]
    assert rows_of(first) == [["a", "71.25", "real", "50,000", ""], ["b", "70", "", "", "0.01"]]
    assert first.numeric == [False, True, False, True, True]
    assert nested.caption == "b: per_class"
    assert len(nested.rows) == 20
    assert (first.folded, nested.folded) == (False, True)


def test_objects_alike_are_rows_under_their_names():
    (table,) = tables_of({"m 1": {"n": 3, "top1": 40.0}, "m 4": {"n": 3, "top1": 41.5}})
    assert table.columns == ["name", "n", "top1"]
    assert rows_of(table) == [["m 1", "3", "40"], ["m 4", "3", "41.5"]]


@pytest.mark.parametrize("value", [3, "text", None, True, [], {}, [1, [2]], {"a": {}}, [[{}]]])
def test_any_value_becomes_tables(value):
    for table in tables_of(json.loads(json.dumps(value))):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.numeric is not None


def test_long_tables_and_cells_are_cut_with_a_note():
    long, cell = tables_of([{"i": i} for i in range(1800)]), tables_of(["x" * 10_000])
    assert len(long[0].rows) == 1000
    assert long[0].note == "800 more rows are in the file."
    assert len(cell[0].rows[0][1].text) == 400
