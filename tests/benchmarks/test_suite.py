"""The report: what the file holds, what is skipped, what the command prints."""

import json

import pytest

from benchmarks import BenchConfig, run_bench
from benchmarks.machine import describe_machine, keeps_freed_memory, summary
from benchmarks.rows import Skipped
from fkd.cli import main
from fkd.errors import ConfigError


def test_the_file_holds_what_a_reader_needs(tiny_suite, tmp_path):
    file = tmp_path / "out.json"
    report = run_bench(BenchConfig(rows="bytes", json=str(file)))
    written = json.loads(file.read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert {"machine", "settings", "seconds", "rows"} == set(written)
    wanted = {"name", "ours", "peer", "ratio", "goal", "met", "n", "spread", "against", "unit"}
    assert wanted <= set(written["rows"][0])


def test_what_cannot_be_measured_says_why(tiny_suite, monkeypatch):
    def fail(bench):
        raise Skipped("the weights are not installed")

    monkeypatch.setattr("benchmarks.labeling.measure", fail)
    (row,) = run_bench(BenchConfig(rows="labeling")).rows
    assert row.skipped == "the weights are not installed"
    assert row.met is None


def test_a_mistake_of_ours_is_not_skipped(tiny_suite, monkeypatch):
    def fail(bench):
        raise ZeroDivisionError

    monkeypatch.setattr("benchmarks.size.measure", fail)
    with pytest.raises(ZeroDivisionError):
        run_bench(BenchConfig(rows="bytes"))


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


def test_repeats_of_the_user_count(tiny_suite, tmp_path):
    rows = run_bench(BenchConfig(rows="read", repeats=6)).rows
    assert {row.n for row in rows} == {6}


def test_the_machine_is_described_without_names_of_hosts():
    import platform

    machine = describe_machine()
    assert machine["packages"].keys() >= {"fkd", "torch"}
    assert platform.node() not in json.dumps(machine)
    assert "cores" in summary(machine)
    assert isinstance(keeps_freed_memory(), bool)


def test_the_command_prints_one_table(tiny_suite, tmp_path, capsys, monkeypatch):
    file = tmp_path / "out.json"
    monkeypatch.setattr("fkd.cli.prepare_process", lambda: None)
    main(["bench", "--rows", "bytes", "--json", str(file)])
    printed = capsys.readouterr().out
    assert "bytes, plain form" in printed
    assert "goals met" in printed
    assert json.loads(file.read_text())["rows"]
