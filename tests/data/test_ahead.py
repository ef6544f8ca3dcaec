"""Work done ahead: in order, bounded, and without stealing cores."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fkd.data.ahead import in_bursts, look_ahead, map_ahead, single_threaded_pool
from fkd.errors import RunError


def test_look_ahead_keeps_order_and_takes_no_more_than_it_may():
    taken, released = [], threading.Event()

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    def work(i):
        released.wait(5)
        return i * i

    with ThreadPoolExecutor(3) as pool:
        results = look_ahead(pool, work, items(), 4)
        threading.Timer(0.05, released.set).start()
        assert next(results) == 0
        assert taken == [0, 1, 2, 3, 4]
        assert list(results) == [i * i for i in range(1, 20)]


def test_look_ahead_passes_an_error_on_in_its_place():
    with ThreadPoolExecutor(2) as pool:
        results = look_ahead(pool, lambda i: 6 // i, [3, 2, 0, 1], 2)
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_threads_of_a_loader_compute_on_one_core_each_and_the_main_thread_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with single_threaded_pool(2) as pool:
            both_busy = threading.Barrier(2)

            def count(_):
                both_busy.wait(5)
                torch.rand(100_000).sqrt().sum()  # large enough to be split
                return torch.get_num_threads()

            assert list(pool.map(count, range(2))) == [1, 1]
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_burst_begins_when_the_one_before_is_used_up():
    taken = []

    def items():
        for i in range(5):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(2) as pool:
        results = in_bursts(pool, lambda i: i * i, items(), 2)
        assert taken == []
        assert [next(results), next(results)] == [0, 1]
        assert taken == [0, 1]
        assert next(results) == 4
        assert taken == [0, 1, 2, 3]
        assert list(results) == [9, 16]


def test_what_fails_in_a_burst_is_raised_when_its_turn_comes():
    with ThreadPoolExecutor(2) as pool:
        results = in_bursts(pool, lambda i: 6 // i, [3, 0, 2], 3)
        assert next(results) == 2
        with pytest.raises(ZeroDivisionError):
            next(results)


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_threads_that_cannot_be_started_are_said_and_the_others_end(monkeypatch, allowed):
    """They wait for each other before the first item, and would keep the program from ending."""
    real, started = threading.Thread.start, []

    def start(thread):
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RunError, match="3 threads cannot be started"), single_threaded_pool(3):
        pass
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_map_ahead_keeps_order_and_works_where_it_should(num_threads):
    here = threading.get_ident()
    found = list(map_ahead(lambda i: (i, threading.get_ident() == here), range(9), num_threads))
    assert found == [(i, num_threads == 0) for i in range(9)]
