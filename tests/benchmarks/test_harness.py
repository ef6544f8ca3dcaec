"""Turns, medians and spread, with clocks that we wind ourselves."""

from itertools import count

import torch

from benchmarks.harness import (
    Stream,
    alternate,
    relative_range,
    timed,
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


def test_one_value_has_no_spread():
    assert relative_range([3.0]) == 0.0


def test_timed_work_is_seconds_for_one_unit():
    clock = Clock()
    assert timed(lambda: clock.pass_by(6.0), units=3, clock=clock)() == 2.0


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
    next(iter(stream))
    stream.close()
    assert ended


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
