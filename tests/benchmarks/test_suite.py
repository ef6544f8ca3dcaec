"""The report: what a row and the file hold, what is skipped, what the command prints."""

import json
import platform

import pytest

from benchmarks.__main__ import main
from benchmarks.machine import describe_machine, summary
from benchmarks.plot import plot_rows
from benchmarks.rows import Row, Skipped, at_least, at_most, per_second
from benchmarks.suite import BenchConfig, run_benchmarks
from fkd.errors import ConfigError


def test_a_row_is_the_ratio_of_medians():
    row = Row.of("r", [1.0, 2.0, 100.0], [30.0, 8.0, 10.0], unit="s")
    assert (row.ours, row.peer, row.ratio, row.n) == (2.0, 10.0, 5.0, 3)


def test_the_spread_is_that_of_the_ratios_of_single_repeats():
    """A machine that is slow for both sides at the same time spreads nothing."""
    assert Row.of("r", [1.0, 2.0, 3.0], [4.0, 8.0, 12.0], unit="s").spread == 0.0
    row = Row.of("r", [1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], unit="s")
    assert row.spread == pytest.approx((4.0 - 2.0) / 3.0)


def test_goals_look_at_the_figure_they_are_about():
    costs = [0.5], [2.0]
    for goal, met, text in (
        (at_least(4.0), True, ">= 4 x"),
        (at_least(4.1), False, ">= 4.1 x"),
        (at_most(2.0), True, "<= 2 crops / s"),
        (at_most(1.9), False, "<= 1.9 crops / s"),
    ):
        row = Row.of("r", *costs, unit="crops / s", show=per_second, goal=goal)
        assert (row.ours, row.met, row.goal) == (2.0, met, text)


def test_a_figure_without_a_peer_has_no_ratio():
    row = Row.of("opening", [0.3, 0.2, 0.4], unit="s", goal=at_most(1.0))
    assert (row.ours, row.peer, row.ratio, row.met, row.n) == (0.3, None, None, True, 3)


def test_what_cannot_be_measured_says_why(quick_is_tiny, monkeypatch):
    def fail(inputs):
        raise Skipped("the weights are not installed")

    monkeypatch.setattr("benchmarks.labeling.measure_labeling", fail)
    (row,) = run_benchmarks(BenchConfig(rows="labeling")).rows
    assert row.skipped == "the weights are not installed"
    assert row.met is None


def test_a_fault_of_a_benchmark_is_not_skipped(quick_is_tiny, monkeypatch):
    def fail(inputs):
        raise ZeroDivisionError

    monkeypatch.setattr("benchmarks.reading.measure_bytes", fail)
    with pytest.raises(ZeroDivisionError):
        run_benchmarks(BenchConfig(rows="bytes"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "read,speed"}, "there is no 'speed'"),
        ({"repeats": 4}, "at least 5"),
        ({"scale": "huge"}, "none of quick, full"),
        ({"json": "no/such/folder/out.json"}, "does not exist"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BenchConfig(**options)


def test_the_machine_is_described_without_names_of_hosts():
    machine = describe_machine()
    assert machine["packages"].keys() >= {"fkd", "torch"}
    assert platform.node() not in json.dumps(machine)
    assert "cores" in summary(machine)


def test_the_command_prints_one_table_and_writes_a_file(
    quick_is_tiny, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "out.json"
    monkeypatch.setattr("benchmarks.__main__.prepare_process", lambda: None)
    main(["--rows", "bytes,loss", "--repeats", "6", "--json", str(file)])
    printed = capsys.readouterr().out
    assert "\n| bytes, plain form | official files, fp32 | " in printed
    assert "goals met" in printed
    written = json.loads(file.read_text())
    assert {"machine", "settings", "seconds", "rows"} == set(written)
    wanted = {"name", "ours", "peer", "ratio", "goal", "met", "n", "spread", "against", "unit"}
    assert wanted <= set(written["rows"][0])
    assert {row["n"] for row in written["rows"] if row["name"].startswith("loss, C = 3,000")} == {6}


def test_errors_of_the_command_are_one_sentence(monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.prepare_process", lambda: None)
    with pytest.raises(SystemExit, match=r"benchmarks: error: images.root: /no/such/folder"):
        main(["--rows", "loader", "--images.root", "/no/such/folder"])


def test_pictures_are_written(tmp_path):
    rows = [
        Row(name="a", against="b", ours=1.0, peer=4.0, ratio=4.0, goal=">= 3 x", met=True, n=5),
        Row(name="skipped", skipped="no teacher"),
    ]
    plot_rows(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"fkd\[bench\]"):
        plot_rows([], tmp_path / "rows.png")
