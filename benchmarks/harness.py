"""Measuring several ways to do the same work side by side.

The speed of a machine drifts while others use it, so single figures mean little. Here all sides of
a comparison run in turns, again and again, in one process:

    repeat 0    ours  peer  limit
    repeat 1          peer  limit  ours         each repeat begins with another side
    repeat 2                limit  ours  peer

Reported are the ratio of the medians, the number of repeats, and the *spread*: the interquartile
range of the ratios of single repeats, relative to their median. A spread of 5 % says that the
middle half of the repeats lay within 5 % of each other.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
Side = Callable[[], float]
"""Does its work once and returns what it cost: seconds (or bytes) for one unit of the work."""
Clock = Callable[[], float]

_SETTLE_SECONDS = 0.05  # that worker processes get on top of what they should need


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


class Stream(Generic[T]):
    """Endless batches from a loader that works ahead.

    Worker processes fill their queue while no batch is taken. So the clock starts when the queue
    is empty, and afterwards they get the time to fill it again, lest they disturb the side that is
    measured next.

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
            self._sleep(_SETTLE_SECONDS + 1.2 * self._ahead * seconds / num_batches)
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


def run_in_new_process(code: str, *arguments: str) -> Any:
    """What a new interpreter prints for a piece of code, as JSON."""
    command = [sys.executable, "-c", code, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
