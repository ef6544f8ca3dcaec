"""Worker processes that build batches: fed in turn, and ended with whatever uses them.

torch's DataLoader ends its workers when its iterator is garbage, or when the program exits. A
traceback keeps the iterator, and the exit waits for workers that ignore the first SIGTERM, as they
must (below), so a program that failed would never end. Here the workers are killed as soon as
their results are not wanted: nothing that they hold is worth waiting for.

Each worker has a pipe of its own. It ends by itself when the other end is closed, also by a kill of
the main process; and the main process reads the end of the pipe when a worker dies. Results travel
in shared memory, as torch sends tensors.
"""

import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch
import torch.multiprocessing  # teaches ForkingPickler to send tensors
from torch.utils.data import get_worker_info

from fkd.errors import FKDError, RunError
from fkd.userfiles import os_reason

T = TypeVar("T")
R = TypeVar("R")
_PATIENCE = 5.0  # seconds until a dead process has an exit code
_AGAIN = "the same command resumes from the last checkpoint"
_is_worker = False


def in_worker() -> bool:
    """Whether this process builds batches for another one: ours, or a DataLoader's."""
    return _is_worker or get_worker_info() is not None


@contextmanager
def worker_processes(
    function: Callable[[T], R], num_workers: int
) -> Iterator["WorkerProcesses[T, R]"]:
    """Processes that compute a function; killed when the context is left, or the program ends.

    Raises:
        RunError: a process cannot be started.
    """
    workers: list[_Worker[T, R]] = []
    # The exit of the program does not wait for workers either, if the context is never left.
    end = Finalize(None, _kill, args=(workers,), exitpriority=10)
    try:
        for _ in range(num_workers):
            workers.append(_Worker(function, workers))
        yield WorkerProcesses(workers)
    finally:
        end()


class WorkerProcesses(Generic[T, R]):
    """Processes that compute a function; see `worker_processes`."""

    def __init__(self, workers: "list[_Worker[T, R]]") -> None:
        self._workers = workers

    def results(self, items: Iterable[T], ahead: int) -> Iterator[R]:
        """The function of every item, in order.

        Args:
            items: taken only as fast as results are.
            ahead: items that a worker has to do at any time.

        Raises:
            FKDError: what the function raised; a RunError where a process was killed, or memory,
                shared memory or the number of open files did not suffice.
            RuntimeError: the function raised something else; holds the traceback of the worker.
        """
        left, due = iter(items), deque[_Worker[T, R]]()
        first = islice(left, ahead * len(self._workers))
        for item, worker in zip(first, cycle(self._workers), strict=False):
            worker.ask(item)
            due.append(worker)
        while due:
            worker = due.popleft()
            result = worker.answer()
            for item in islice(left, 1):
                worker.ask(item)
                due.append(worker)
            yield result


class _Worker(Generic[T, R]):
    """A process that computes a function, and our end of its pipe.

    Args:
        function: what it computes.
        others: workers that were started before.
    """

    def __init__(self, function: Callable[[T], R], others: "list[_Worker[T, R]]") -> None:
        forks = multiprocessing.get_start_method() == "fork"
        self._imports_main = not forks  # of a user's script, which may have no main guard
        self._connection, theirs = multiprocessing.Pipe()
        # Our ends are inherited by a fork, and would keep the pipes open.
        inherited = [worker._connection for worker in (*others, self)] if forks else []
        self.process: BaseProcess = multiprocessing.Process(
            target=_work, args=(function, theirs, inherited), daemon=True
        )
        try:
            self.process.start()
        except OSError as error:
            raise RunError(
                f"a process that loads images cannot be started: {os_reason(error)}; use fewer "
                f"--num_workers, or --workers threads; {_AGAIN}"
            ) from error
        finally:
            theirs.close()

    def ask(self, item: T) -> None:
        """Send an item, whose result `answer` returns."""
        with suppress(OSError):  # it is dead, as `answer` will notice
            self._connection.send(item)

    def answer(self) -> R:
        """The next result; raises what `WorkerProcesses.results` does."""
        try:
            result = self._connection.recv()
        except (EOFError, OSError, RuntimeError) as error:
            raise self._explain(error) from error
        self._imports_main = False  # it has done so
        if isinstance(result, _Failure):
            raise result.error()
        return result  # type: ignore[no-any-return]

    def _explain(self, error: Exception) -> Exception:
        """Why no result arrived."""
        known = _resource_error(error)
        if known is not None:
            return known
        # It may also die while it hands over a tensor, which breaks another connection.
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        if code is None:
            return RunError(f"a process that loads images does not answer ({error}); {_AGAIN}")
        if code == -signal.SIGBUS:
            return _shared_memory_error()
        if code == 1 and self._imports_main:
            return RunError(
                "a process that loads images ended before it began: it runs the script that "
                'started it, whose calls must be below `if __name__ == "__main__":`; mend that, or '
                "use --workers threads"
            )
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return RunError(
            f"a process that loads images {how}, perhaps for lack of memory; {_AGAIN}, with fewer "
            "--num_workers if need be"
        )


class _Failure:
    """What a worker raised, in a form that can be sent.

    Args:
        raised: the exception.
    """

    def __init__(self, raised: BaseException) -> None:
        self._known = raised if isinstance(raised, FKDError) else _resource_error(raised)
        self._text = "".join(traceback.format_exception(raised))

    def error(self) -> Exception:
        """What the main process raises."""
        if self._known is not None:
            return self._known
        return RuntimeError(f"in a process that loads images:\n{self._text}")


def _work(function: Callable[[Any], Any], pipe: Connection, inherited: list[Connection]) -> None:
    """What a worker does: results for items, until the pipe is closed.

    Ctrl-C and a batch system's SIGTERM reach all processes of a run, but the main one needs its
    workers to finish the step.
    """
    global _is_worker
    _is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for connection in inherited:
        connection.close()
    sys.excepthook = _report
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):
        while True:
            item = pipe.recv()
            pipe.send_bytes(_result(function, item))


def _report(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print what a thread of a worker ends by, unless the main process has gone.

    A thread of multiprocessing hands the main process shared memory. When that is killed in the
    middle, no process is left to tell, and the traceback would look like the cause.
    """
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, where)


def _result(function: Callable[[Any], Any], item: Any) -> Any:
    """The bytes of the function's result, or of what it raised."""
    try:
        return ForkingPickler.dumps(function(item))
    except BaseException as error:
        return ForkingPickler.dumps(_Failure(error))


def _kill(workers: "list[_Worker[Any, Any]]") -> None:
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(_PATIENCE)


def _resource_error(error: BaseException) -> RunError | None:
    """The RunError for a lack of memory, shared memory or files; None for another error."""
    if isinstance(error, MemoryError):
        return RunError(f"too little memory to load images; {_AGAIN}, with fewer --num_workers")
    text = str(error)
    if not isinstance(error, OSError | RuntimeError):
        return None
    if "shared memory" in text or "shm" in text:
        return _shared_memory_error()
    if "Too many open files" in text or "ancdata" in text:
        return RunError(
            "too many open files for the processes that load images; use --workers threads, or "
            f"allow more (ulimit -n); {_AGAIN}"
        )
    return None


def _shared_memory_error() -> RunError:
    return RunError(
        "the shared memory in which processes that load images pass batches is full (/dev/shm); "
        "use --workers threads or fewer --num_workers, or give a container more (docker run "
        f"--shm-size 8g); {_AGAIN}"
    )
