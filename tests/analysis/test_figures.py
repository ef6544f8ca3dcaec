"""Files of an analysis: whole, the same for the same numbers, and told of where they cannot be."""

import json
import sys

import pytest
from PIL import Image

from fkd.analysis.figures import figure_style, new_figure, prepare_folder, save_analysis
from fkd.errors import ConfigError


@figure_style()
def draw():
    figure = new_figure(3.0, 2.0)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="a < b & c")
    axes.legend()
    return figure


def test_the_three_files(tmp_path):
    files = save_analysis(tmp_path / "new" / "folder", "thing", draw(), {"é": [1, 2.5, None]})
    assert [file.name for file in files] == ["thing.svg", "thing.png", "thing.json"]
    assert "a &lt; b &amp; c" in files[0].read_text("utf-8")
    with Image.open(files[1]) as image:
        assert image.size == (480, 320)
    assert json.loads(files[2].read_text("utf-8")) == {"é": [1, 2.5, None]}
    assert sorted(file.name for file in files[0].parent.iterdir()) == sorted(f.name for f in files)


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    first = save_analysis(tmp_path / "a", "thing", draw(), {"x": 1})
    second = save_analysis(tmp_path / "b", "thing", draw(), {"x": 1})
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_names_in_any_script(tmp_path):
    with figure_style():
        figure = new_figure(3.0, 2.0)
        figure.text(0.1, 0.5, "\u732b \u0928\u092e")
    files = save_analysis(tmp_path, "thing", figure, {})
    assert "\u732b \u0928\u092e" in files[0].read_text("utf-8")


def test_the_look_of_other_figures_is_left_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"out: .*thing\.svg cannot be written"):
        save_analysis(tmp_path / "file", "thing", draw(), {})


def test_a_folder_that_cannot_be_written_is_told_of_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"out: .*file.* cannot be written"):
            prepare_folder(place)
    prepare_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


@pytest.mark.parametrize("name", ["\u732b", "\u0915\u0941\u0924\u094d\u0924\u093e", "\U0001f408"])
def test_names_in_any_script_are_saved(name, tmp_path):
    """A font without a character makes matplotlib warn, which is an error here."""
    figure = draw()
    figure.axes[0].set_title(name)
    svg = save_analysis(tmp_path, "thing", figure, {})[0]
    assert name in svg.read_text("utf-8")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="pip install 'fkd\\[analysis\\]'"):
        draw()
