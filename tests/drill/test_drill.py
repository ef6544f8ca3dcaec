"""The drill itself: sizes, its record, resuming, and the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drill.plugin import Drill, drop_torn_line, passed_tests, read_results
from drill.table import BEGIN, END, markdown, replace_table, totals

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest

@pytest.mark.drill("G4", "flips", failing="silent")
@pytest.mark.parametrize("form", ["plain", "map"])
def test_flips(drill, form):
    drill.tried(drill.times(3, goal=200))

@pytest.mark.drill("G1", "kills", failing="lost")
def test_kills(drill):
    drill.tried(drill.times(2, goal=10))
    drill.tried(1, "power cuts")
    assert {passes}

def test_of_something_else():
    raise AssertionError
"""


def line(test, goal="G1", outcome="passed", failing="lost", scale=0.1, **tried):
    return {
        "test": test,
        "scale": scale,
        "goal": goal,
        "outcome": outcome,
        "failing": failing,
        "tried": tried,
    }


@pytest.mark.parametrize(
    ("scale", "times"), [(None, 7), (0.1, 100), (1.0, 1000), (1e-9, 1), (0.0015, 2)]
)
def test_times(scale, times):
    assert Drill("G1", "kills", "lost", scale).times(7, goal=1000) == times


class Suite:
    """A test file of its own, run in a process of its own."""

    def __init__(self, folder):
        self.path, self.results = folder / "test_suite.py", folder / "results.jsonl"

    def run(self, passes):
        """The exit code of pytest."""
        self.path.write_text(SUITE.format(passes=passes))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "drill.plugin", str(self.path)]
        command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
        command += ["--drill-scale", "0.1", "--drill-results", str(self.results)]
        done = subprocess.run(
            command,
            cwd=self.path.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=100,
        )
        return done.returncode


@pytest.fixture
def suite(tmp_path):
    return Suite(tmp_path)


def test_results_are_recorded_and_passed_tests_not_run_again(suite):
    assert suite.run(False) == 1
    lines = read_results(suite.results)
    assert sorted(each["outcome"] for each in lines) == ["failed", "passed", "passed"]
    assert totals(lines) == "42 tries in 3 tests: 2 lost, 0 silent, 0 untyped"
    assert len(passed_tests(lines, 0.1)) == 2
    assert passed_tests(lines, 0.2) == set()

    assert suite.run(True) == 0
    lines = read_results(suite.results)
    assert len(lines) == 4  # the test that had failed, once more
    assert totals(lines) == "42 tries in 3 tests: 0 lost, 0 silent, 0 untyped"


@pytest.mark.parametrize("torn", ["", "{", '{"test": "b", "sca'])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "results.jsonl"
    drop_torn_line(path)
    assert not path.exists()
    path.write_text(json.dumps(line("a")) + "\n" + torn)
    drop_torn_line(path)
    assert read_results(path) == [line("a")]


def test_the_table_sums_over_tests_and_sorts_by_goal():
    lines = [
        line("a", goal="G13", kills=5),
        line("b", goal="G2", failing="untyped", outcome="failed", errors=1_000),
        line("c", goal="G2", failing="untyped", errors=234),
    ]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in markdown(lines).splitlines()]
    assert rows[2] == ["G2", "errors", "1,234", "0", "0", "1"]
    assert rows[3] == ["G13", "kills", "5", "0", "0", "0"]


def test_the_table_of_the_page_is_replaced():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = replace_table(page, "new")
    assert new == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert replace_table(new, "new") == new
    with pytest.raises(ValueError, match="has no"):
        replace_table("nothing", "new")


def test_lines_are_json(suite):
    suite.run(True)
    for text in suite.results.read_text().splitlines():
        assert json.loads(text)["scale"] == 0.1
