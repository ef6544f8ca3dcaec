"""The pytest side of the drill: how often a test tries something, and a record of what it tried.

A test of a promise in `docs/reliability.md` is marked with the goal, what is tried, and what a
failure would mean, and asks for its size:

    @pytest.mark.drill("G4", "single-bit flips", failing="silent")
    def test_flipped_bits(drill):
        for bit in some(drill.times(300, goal=20_000)):
            ...
        drill.tried(len(bits))

`make test` runs the small size. `--drill-scale S` runs these tests alone at S times their goals,
and `--drill-results FILE` adds a line for each to FILE; a test with a passed line there is not run
again, so that a drill that was stopped resumes.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FAILINGS = ("lost", "silent", "untyped")  # labels or training; wrong values; no FKDError or a hang


@dataclass
class Drill:
    """What a marked test asks and tells.

    Attributes:
        scale: share of the goals that is tried; None for the small size.
        counts: how often each thing was tried.
    """

    goal: str
    what: str
    failing: str
    scale: float | None
    counts: dict[str, int] = field(default_factory=dict)

    def times(self, small: int, *, goal: int) -> int:
        """How often to try: `small` in `make test`, else the share of `goal`, at least once."""
        return small if self.scale is None else max(1, math.ceil(goal * self.scale))

    def tried(self, count: int, what: str | None = None) -> None:
        """So many were tried, of what the mark says or of `what`."""
        what = self.what if what is None else what
        self.counts[what] = self.counts.get(what, 0) + count


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options."""
    group = parser.getgroup("drill")
    group.addoption("--drill-scale", type=float, help="run the drill alone, at this share of goals")
    group.addoption("--drill-results", type=Path, help="add a line for each of its tests to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """The mark is known."""
    config.addinivalue_line("markers", "drill(goal, what, failing): see drill/plugin.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With a scale, keep the tests of the drill that have not passed at this scale."""
    scale = config.getoption("--drill-scale")
    if scale is None:
        return
    done = passed_tests(read_results(config.getoption("--drill-results")), scale)
    chosen = [i for i in items if i.get_closest_marker("drill") and i.nodeid not in done]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep how the test itself ended, for the fixture below."""
    report: Any = yield
    if report.when == "call":
        item.stash[_OUTCOME] = report.outcome
    return report


_OUTCOME = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def drill_scale(request: pytest.FixtureRequest) -> float | None:
    """Share of the goals; None for the small size. For fixtures that many tests share."""
    scale: float | None = request.config.getoption("--drill-scale")
    return scale


@pytest.fixture
def drill(request: pytest.FixtureRequest, drill_scale: float | None) -> Iterator[Drill]:
    """The size of a test of the drill, and where it tells what it tried."""
    mark = request.node.get_closest_marker("drill")
    drill = Drill(*mark.args, **mark.kwargs, scale=drill_scale)
    assert drill.failing in FAILINGS
    yield drill
    outcome = request.node.stash.get(_OUTCOME, "failed")
    path = request.config.getoption("--drill-results")
    if path is not None and outcome != "skipped":
        _append(path, request.node.nodeid, drill, outcome)


def _append(path: Path, test: str, drill: Drill, outcome: str) -> None:
    """One line in one write: several processes add to the file."""
    line = {
        "test": test,
        "scale": drill.scale,
        "goal": drill.goal,
        "outcome": outcome,
        "failing": drill.failing,
        "tried": drill.counts or {drill.what: 0},
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def read_results(path: Path | None) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def drop_torn_line(path: Path) -> None:
    """Remove what a full disk or a power cut left of a last line; its test is run again."""
    if path.exists():
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])


def passed_tests(results: list[dict[str, Any]], scale: float) -> set[str]:
    """Tests that passed at this scale."""
    return {r["test"] for r in results if r["outcome"] == "passed" and r["scale"] == scale}
