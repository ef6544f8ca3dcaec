"""Measuring several ways to do the same work side by side.

The speed of a machine drifts while others use it, so single figures mean little. Here all sides of
a comparison are run in turn, again and again, in one process:

    repeat 0    ours  peer  limit
    repeat 1          peer  limit  ours         each repeat begins with another side
    repeat 2                limit  ours  peer

What is reported is the ratio of the medians, how many repeats there were, and the *spread*: the
interquartile range of the ratios of single repeats, relative to their median. A spread of 5 % says
that the middle half of the repeats lay within 5 % of each other.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
Side = Callable[[], float]
"""Does its work once and returns what it cost: seconds (or bytes) for one unit of the work."""
Clock = Callable[[], float]

_TO_COME_TO_REST = 0.05  # seconds that worker processes get on top of what they should need


@dataclass(frozen=True)
class Comparison:
    """Two sides of a measurement.

    Attributes:
        ours, peer: median cost of each.
        ratio: peer / ours; above 1 where ours costs less.
        spread: interquartile range of the ratios of single repeats over their median.
        n: repeats.
    """

    ours: float
    peer: float
    ratio: float
    spread: float
    n: int


def alternate(sides: Mapping[str, Side], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """The cost of every side in every repeat; the sides take turns, also in going first."""
    names = list(sides)
    for _ in range(warmups):
        for side in sides.values():
            side()
    costs: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            costs[name].append(sides[name]())
    return costs


def compare(ours: list[float], peer: list[float]) -> Comparison:
    """Two lists of costs, of the same repeats in the same order."""
    ratios = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    own, theirs = statistics.median(ours), statistics.median(peer)
    return Comparison(own, theirs, theirs / own, relative_range(ratios), len(ratios))


def relative_range(values: list[float]) -> float:
    """Interquartile range over the median; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def timed(work: Callable[[], object], units: float = 1, clock: Clock = time.perf_counter) -> Side:
    """A side that is the time `work` takes, for one of the `units` that it does."""

    def side() -> float:
        started = clock()
        work()
        return (clock() - started) / units

    return side


def timed_steps(
    steps: Callable[[Callable[[], None]], None],
    units: float,
    rest: float = 0.0,
    clock: Clock = time.perf_counter,
) -> Side:
    """A side of equal steps beside which others work ahead: the time from the first to the last.

    The first step is not counted, so that all counted ones begin and end in the same state.

    Args:
        steps: does them, and calls what it is given after each.
        units: units of work in a step.
        rest: seconds that those who work ahead need to come to rest afterwards.
    """

    def side() -> float:
        stamps: list[float] = []
        steps(lambda: stamps.append(clock()))
        time.sleep(rest)
        return (stamps[-1] - stamps[0]) / (len(stamps) - 1) / units

    return side


class Stream(Generic[T]):
    """Batches without end, from a loader that works ahead.

    Worker processes use the time in which nobody asks to fill their queue. So the clock starts when
    the queue is empty, and afterwards they get the time to fill it again, lest they disturb the
    side that is measured next.

    Args:
        batches: never ends; closed by `close`.
        count: units of work in a batch.
        ahead: batches that workers may have ready.
    """

    def __init__(
        self,
        batches: Iterator[T],
        count: Callable[[T], int],
        ahead: int = 0,
        clock: Clock = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._batches = batches
        self._count = count
        self._ahead = ahead
        self._clock = clock
        self._sleep = sleep

    def __next__(self) -> T:
        return next(self._batches)

    def __iter__(self) -> Iterator[T]:
        return self._batches

    def seconds_per_unit(self, num_batches: int) -> float:
        """Time for the next batches over the units in them; nothing is done with them."""
        for _ in range(self._ahead):
            next(self._batches)
        started, units = self._clock(), 0
        for _ in range(num_batches):
            units += self._count(next(self._batches))
        seconds = self._clock() - started
        if self._ahead:
            self._sleep(_TO_COME_TO_REST + 1.2 * self._ahead * seconds / num_batches)
        return seconds / units

    def close(self) -> None:
        """End the worker processes."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many threads of torch inside; the earlier number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_afresh(code: str, *arguments: str) -> Any:
    """What a fresh interpreter prints for a piece of code, as JSON."""
    command = [sys.executable, "-c", code, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
