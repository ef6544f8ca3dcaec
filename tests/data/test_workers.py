"""Worker processes: results in order, errors that say what to do, and no process left."""

import ctypes
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from multiprocessing import resource_sharer

import pytest
import torch

from fkd.crops.replay import InputSpec
from fkd.crops.sampling import CropConfig
from fkd.data import workers
from fkd.data.batches import CropCutter, load_batches
from fkd.data.crop_sources import CropRequest, FreshCropSource
from fkd.data.workers import in_worker, worker_processes
from fkd.errors import ImageError, RunError


def square(x):
    return torch.tensor([x * x])


def compute(function, items, num_workers=2, ahead=2):
    with worker_processes(function, num_workers) as processes:
        return list(processes.results(items, ahead))


@pytest.mark.parametrize("num_items", [0, 1, 3, 20])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_items(num_items, num_workers):
    results = compute(square, range(num_items), num_workers)
    assert [int(result) for result in results] == [i * i for i in range(num_items)]


def test_items_are_taken_only_as_fast_as_results():
    taken = []
    items = (taken.append(i) or i for i in range(100))
    with worker_processes(square, 2) as processes:
        results = processes.results(items, 2)
        for number in range(10):
            next(results)
            assert len(taken) == 2 * 2 + number + 1


def fail(error, x):
    if x == 3:
        raise error
    return x


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ImageError("a.jpg is empty"), ImageError, r"^a\.jpg is empty$"),
        (MemoryError(), RunError, "too little memory to load images"),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space"),
            RunError,
            "--workers threads or .* --shm-size",
        ),
        (OSError(24, "Too many open files"), RunError, "too many open files .* --workers threads"),
        (
            KeyError("a bug"),
            RuntimeError,
            r"(?s)in a process that loads images:.*KeyError: 'a bug'",
        ),
        (SystemExit(1), RuntimeError, "(?s)in a process that loads images:.*SystemExit"),
    ],
)
def test_what_a_worker_raises_is_raised_here_in_its_place(error, kind, message):
    with worker_processes(partial(fail, error), 2) as processes:
        results = processes.results(range(6), 2)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(kind, match=message):
            next(results)


class CannotBeSent:
    def __reduce__(self):
        raise RuntimeError("shared memory")


def test_a_result_that_cannot_be_sent_is_an_error_like_any_other():
    with pytest.raises(RunError, match="--shm-size"):
        compute(lambda x: CannotBeSent(), range(3))


def die(how, x):
    if x == 3:
        if how == "exit":
            os._exit(5)
        faulthandler.disable()
        os.kill(os.getpid(), how)
        time.sleep(60)
    return x


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exit", "ended with 5"),
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (signal.SIGBUS, "--shm-size"),
    ],
)
def test_a_dead_worker_is_noticed_at_once(how, message):
    started = time.monotonic()
    with pytest.raises(RunError, match=message):
        compute(partial(die, how), range(6))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("guard", ["", 'if __name__ == "__main__":'])
def test_a_script_without_a_main_guard_is_told_so(guard, tmp_path):
    """Where a process imports the script instead of being a copy of it, as on macOS."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from fkd.data.workers import worker_processes\n"
        f"{guard or 'if True:'}\n"
        "    multiprocessing.set_start_method('spawn', force=True)\n"
        "    with worker_processes(abs, 1) as processes:\n"
        "        print(list(processes.results([-1], 1)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    if guard:
        assert done.stdout == "[1]\n", done.stderr
    else:
        assert 'must be below `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_main_process(number):
    """A terminal sends them to all processes, and the step that is under way needs its batches."""

    def signaled(x):
        os.kill(os.getpid(), number)
        return x

    assert compute(signaled, range(6)) == list(range(6))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_are_gone_when_nobody_wants_their_results():
    """Also those that are at work: they ignore everything but a kill."""
    for items in (range(100), range(3)):
        with worker_processes(lambda x: (os.getpid(), time.sleep(0.01))[0], 2) as processes:
            results = processes.results(items, 2)
            pids = {next(results) for _ in range(3)}
        assert not any(alive(pid) for pid in pids)


def wait_until_gone(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_do_not_outlive_a_killed_main_process():
    reader, writer = os.pipe()
    main = os.fork()
    if main == 0:
        with worker_processes(lambda x: (os.getpid(), time.sleep(0.05))[0], 3) as processes:
            for pid in processes.results(range(10_000), 2):
                os.write(writer, b"%d\n" % pid)
        os._exit(0)
    pids, read = set(), b""
    while len(pids) < 3:
        read += os.read(reader, 4096)
        pids = {int(line) for line in read.splitlines()[:-1]}
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    wait_until_gone(pids)


def leave_in_the_middle(before, x):
    """What a main process does that is killed while it takes over shared memory."""
    address, _ = resource_sharer._resource_sharer.register(lambda connection: None, lambda: None)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(address)
        if before == "answer":
            asked.recv(4)
        time.sleep(0.05)  # what was sent by now and is not read resets the connection
    time.sleep(0.05)
    return x


@pytest.mark.parametrize("before", ["greeting", "answer"])
def test_a_killed_main_process_is_not_reported_by_its_workers(before, capfd):
    assert compute(partial(leave_in_the_middle, before), [1], 1) == [1]
    assert capfd.readouterr().err == ""


def break_a_thread(error, x):
    sys.excepthook(type(error), error, None)
    return x


def test_other_errors_in_threads_of_workers_are_printed(capfd):
    compute(partial(break_a_thread, ValueError("a bug")), [1], 1)
    assert "ValueError: a bug" in capfd.readouterr().err


def test_a_worker_knows_that_it_is_one():
    assert compute(lambda x: in_worker(), range(2)) == [True, True]
    assert not in_worker()


def test_a_process_that_cannot_be_started_is_said(monkeypatch):
    def refuse(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(workers.multiprocessing.Process, "start", refuse)
    with pytest.raises(RunError, match=r"cannot be started: resource temporarily .*"):
        compute(square, range(3))


def with_little_shared_memory(size: str) -> bool:
    """Give this process a /dev/shm of its own; whether that is allowed."""
    new_mounts = 0x00020000  # CLONE_NEWNS
    commands = [
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"],
    ]
    if ctypes.CDLL(None).unshare(new_mounts) != 0:
        return False
    return all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)


def test_a_full_shared_memory_is_said_in_one_sentence(image_source):
    """A real one, of the size that Docker gives to a smaller batch than these."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"not allowed"
        try:
            if with_little_shared_memory("256k"):
                source = FreshCropSource(image_source, CropConfig())
                cutter = CropCutter(image_source, source, [InputSpec(96, "bilinear")])
                requests = [[CropRequest(i, 0, 4) for i in range(4)]] * 4
                options = {"num_workers": 2, "workers": "processes", "pin_memory": False}
                said = b"no error: %d" % len(list(load_batches(cutter, requests, **options)))
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()
        os.write(writer, said)
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 4096).decode()
    if said == "not allowed":
        pytest.skip("needs the right to mount")
    assert said.startswith("RunError: the shared memory"), said
    assert "--workers threads" in said
    assert "--shm-size" in said
