"""Growth at tiny sizes, and the pictures."""

from dataclasses import replace

import pytest

from benchmarks import growth
from benchmarks.plot import plot_growth, plot_rows
from benchmarks.rows import Row
from benchmarks.workbench import Workbench
from fkd.errors import ConfigError


@pytest.mark.parametrize(
    ("question", "sizes"),
    [("crops", [5, 9]), ("images", [70, 90]), ("m", [1, 2]), ("workers", [0])],
)
def test_every_line_has_a_figure_for_every_size(question, sizes, bench):
    found = getattr(growth, f"grow_{question}")(bench, sizes)
    assert found["x"] == sizes
    assert len(found) >= 3
    assert all(len(values) == len(sizes) and min(values) >= 0 for values in found.values())


def test_the_official_files_grow_with_the_crops_stored(tmp_path, tiny):
    """Else the picture would show noise."""
    bench = Workbench(tmp_path, replace(tiny, read_batches=2, cheap_repeats=3))
    found = growth.grow_crops(bench, [5, 2000])
    assert found["official"][1] > 1.5 * found["official"][0]


def test_pictures_are_written(tmp_path):
    rows = [
        Row(name="a", against="b", ours=1.0, peer=4.0, ratio=4.0, goal=">= 3 x", met=True, n=5),
        Row(name="skipped", skipped="no teacher"),
    ]
    plot_rows(rows, tmp_path / "rows.png", "machine")
    plot_growth({"x": [1, 10], "ours": [1.0, 2.0]}, tmp_path / "growth.png", "t", "x", "y")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"fkd\[bench\]"):
        plot_rows([], tmp_path / "rows.png", "machine")
