"""Trying again what may succeed later, stopping all threads at the first failure."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from fkd.errors import RemoteError

T = TypeVar("T")
Item = TypeVar("Item")

DELAYS = (0.5, 2.0, 8.0)
"""Seconds before the second, third and fourth attempt."""


class Transient(Exception):
    """A failure that the next attempt may not have; its text says which, as part of a sentence."""


class Stopped(Exception):
    """Another thread has failed, or the user has stopped the command."""


class Watch:
    """What the threads of a transfer share: progress, and whether to stop.

    Args:
        progress: called with every number of bytes that was sent, fetched or found to be there;
            with a negative one where bytes are fetched again.
    """

    def __init__(self, progress: Callable[[int], None] = lambda num_bytes: None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def advance(self, num_bytes: int) -> None:
        """Count bytes.

        Raises:
            Stopped: the transfer is to end.
        """
        with self._lock:
            self._progress(num_bytes)
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """Let every thread end at its next bytes."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Wait before another attempt.

        Raises:
            Stopped: the transfer is to end.
        """
        if self._stop.wait(seconds):
            raise Stopped


def patiently(action: Callable[[], T], what: str, watch: Watch) -> T:
    """The result of an action that is tried up to four times.

    Args:
        action: raises `Transient` where another attempt makes sense.
        what: is sent or fetched, for the message.
        watch: may end the waiting.

    Raises:
        RemoteError: the last attempt failed, too.
        Stopped: the transfer is to end.
    """
    for delay in DELAYS:
        try:
            return action()
        except Transient:
            watch.pause(delay)
    try:
        return action()
    except Transient as error:
        raise RemoteError(
            f"{what}: {error}, {len(DELAYS) + 1} times in a row; run the same command again when "
            "that is mended, it resumes"
        ) from error


def for_each(
    items: Iterable[Item], action: Callable[[Item], None], watch: Watch, num_threads: int
) -> None:
    """Do something for each item in several threads; the first failure ends all of them.

    Raises:
        Exception: that failure.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="fkd-transfer") as pool:
        futures = [pool.submit(action, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failures = [error for future in done if (error := future.exception()) is not None]
        except BaseException:  # Ctrl-C
            watch.stop()
            pool.shutdown(cancel_futures=True)
            raise
        if failures:
            watch.stop()
            pool.shutdown(cancel_futures=True)
            raise next((e for e in failures if not isinstance(e, Stopped)), failures[0])
