"""Work done ahead by threads: results in order, a bounded number of them in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from threading import Barrier
from typing import TypeVar

import torch

from fkd.errors import RunError

T = TypeVar("T")
R = TypeVar("R")


def look_ahead(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """`function` of every item, in order, while the pool works on up to `ahead` further items.

    Items are taken only as fast as results are, so a chain of these holds a bounded number.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def in_bursts(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], size: int
) -> Iterator[R]:
    """`function` of every item, in order: of `size` items at once, and of the next ones after these
    have been used. In between the pool leaves the cores to the consumer of the results.
    """
    remaining = iter(items)
    while burst := [pool.submit(function, item) for item in islice(remaining, size)]:
        try:
            wait(burst)  # the consumer of the first result then has all cores
            for future in burst:
                yield future.result()
        finally:
            for future in burst:
                future.cancel()


def map_ahead(function: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """`function` of every item, in order, by as many threads and so many items ahead.

    Args:
        function: which may compute with torch.
        items: what it is called with.
        num_threads: 0 calls it here, when the result is wanted.

    Raises:
        RunError: the system allows no more threads.
    """
    if num_threads == 0:
        yield from map(function, items)
        return
    with single_threaded_pool(num_threads) as pool:
        yield from look_ahead(pool, function, items, num_threads)


@contextmanager
def single_threaded_pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch computes on one core each; elsewhere its number of threads stays.

    Otherwise every thread would start as many helpers as there are cores, for each small crop.

    Raises:
        RunError: the system allows no more threads.
    """
    number, ready = torch.get_num_threads(), Barrier(num_threads)

    def prepare(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from here on this thread keeps its number, whatever others set
        ready.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="fkd-loader")
    try:
        try:
            list(pool.map(prepare, range(num_threads)))
        except RuntimeError as error:
            ready.abort()  # those that were started wait for the others
            raise RunError(
                f"{num_threads} threads cannot be started: {error}; use fewer"
            ) from error
        torch.set_num_threads(number)
        yield pool
    finally:
        # No waiting: the garbage collector may close an abandoned stream in any thread, also in one
        # that is just starting and holds a lock that the end of another thread needs.
        pool.shutdown(wait=False, cancel_futures=True)
