"""Turns, medians and spread, with clocks that we wind ourselves."""

from itertools import count

import pytest
import torch

from benchmarks.harness import (
    Stream,
    alternate,
    compare,
    relative_range,
    timed,
    timed_steps,
    torch_threads,
)


class Clock:
    """Moves only when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


def test_every_side_goes_first_in_turn():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or 1.0 for name in "abc"}
    alternate(sides, repeats=4, warmups=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"


def test_warmups_are_not_counted():
    costs = iter(range(100))
    assert alternate({"a": lambda: next(costs)}, repeats=3, warmups=2) == {"a": [2, 3, 4]}


def test_costs_are_kept_by_side_and_repeat():
    a, b = count(10), count(20)
    found = alternate({"a": lambda: next(a), "b": lambda: next(b)}, repeats=3, warmups=0)
    assert found == {"a": [10, 11, 12], "b": [20, 21, 22]}


def test_a_comparison_is_the_ratio_of_medians():
    found = compare([1.0, 2.0, 100.0], [30.0, 8.0, 10.0])
    assert (found.ours, found.peer, found.ratio, found.n) == (2.0, 10.0, 5.0, 3)


def test_the_spread_is_that_of_the_ratios_of_single_repeats():
    """A machine that is slow for both sides at the same time spreads nothing."""
    assert compare([1.0, 2.0, 3.0], [4.0, 8.0, 12.0]).spread == 0.0
    ratios = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = compare([1.0] * 5, ratios)
    assert found.spread == pytest.approx((4.0 - 2.0) / 3.0)


def test_one_value_has_no_spread():
    assert relative_range([3.0]) == 0.0


def test_timed_work_is_seconds_for_one_unit():
    clock = Clock()
    assert timed(lambda: clock.pass_by(6.0), units=3, clock=clock)() == 2.0


def test_the_first_of_timed_steps_is_not_counted():
    clock = Clock()

    def steps(done):
        for seconds in (100.0, 2.0, 4.0):
            clock.pass_by(seconds)
            done()

    assert timed_steps(steps, units=2, clock=clock)() == 1.5


def test_a_stream_is_drained_before_it_is_timed():
    """Batches that lay ready cost nothing and would flatter the loader."""
    clock, slept = Clock(), []

    def batches():
        for seconds in (0.0, 0.0, 5.0, 7.0):
            clock.pass_by(seconds)
            yield "ab"

    stream = Stream(batches(), len, ahead=2, clock=clock, sleep=slept.append)
    assert stream.seconds_per_unit(2) == 3.0
    assert slept[0] > 2 * 6.0  # time to make two batches again


def test_closing_a_stream_ends_its_generator():
    ended = []

    def batches():
        try:
            while True:
                yield [1]
        finally:
            ended.append(True)

    stream = Stream(batches(), len)
    next(stream)
    stream.close()
    assert ended


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
