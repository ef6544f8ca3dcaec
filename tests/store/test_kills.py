"""Killed at any moment, labeling ends in the bytes of an uninterrupted run."""

import errno
import os
import random
import shutil
import signal
import time
from functools import partial

import pytest

from fkd.errors import StoreError, StoreFull
from fkd.store import LabelStore, files, verify_store

# By form and number of processes; only the bytes of the shards differ between forms.
KILLS = {("plain", 1): 85, ("plain", 2): 15, ("compact", 1): 10, ("compact", 2): 5}
KILLS |= {("map", 1): 5, ("map", 2): 5}


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int) -> int:
    """Kill a child; the exit code that it had already, or that of the kill."""
    os.kill(child, signal.SIGKILL)
    return end(child)


def require_sound(path) -> None:
    if (path / "config.json").exists():
        assert verify_store(path, partial=True) == []


@pytest.fixture(scope="module", params=["plain", "recomputed", "map"])
def small(lab, request):
    return lab.Job(num_images=12, images_per_shard=3, form=request.param)


@pytest.fixture(scope="module")
def oracle(lab, small, tmp_path_factory):
    """Digest of an uninterrupted run, and how long one takes with its fork, in seconds."""
    seconds = []
    for _ in range(3):
        path = tmp_path_factory.mktemp("oracle") / "store"
        start = time.monotonic()
        assert end(lab.fork(partial(small.run, path))) == 0
        seconds.append(time.monotonic() - start)
    return lab.folder_digest(path), min(seconds)


@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_at_random_moments_and_run_again(lab, small, oracle, tmp_path, world_size):
    expected, seconds = oracle
    draw, kills, trial = random.Random(world_size), 0, 0
    while kills < KILLS[small.parsed.form, world_size]:
        path, codes = tmp_path / str(trial := trial + 1), []
        while set(codes) != {0}:
            ranks = range(world_size)
            children = [lab.fork(partial(small.run, path, r, world_size)) for r in ranks]
            time.sleep(draw.uniform(0, 0.8 * seconds))
            codes = [kill(child) for child in draw.sample(children, world_size)]
            assert set(codes) <= {0, -signal.SIGKILL}
            kills += -signal.SIGKILL in codes
            require_sound(path)
        assert lab.folder_digest(path) == expected
        assert verify_store(path) == []
        shutil.rmtree(path)


class Faults:
    """Replaces `files.call`: counts the calls, and lets one of them fail or die."""

    def __init__(self, at: int = -1, action: object = None) -> None:
        self.count, self.at, self.action = 0, at, action
        self.function = None

    def __call__(self, function, *args, **kwargs):
        self.count += 1
        if self.count - 1 != self.at:
            return function(*args, **kwargs)
        self.function = function
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "short write" and function is os.write:
            descriptor, data = args
            return os.write(descriptor, data[: len(data) // 2])
        if isinstance(self.action, int):
            raise OSError(self.action, os.strerror(self.action))
        return function(*args, **kwargs)


@pytest.fixture(scope="module")
def tiny(lab):
    return lab.Job(num_images=4, images_per_shard=2)


@pytest.fixture(scope="module")
def tiny_oracle(lab, tiny, tmp_path_factory):
    """Digest of an uninterrupted run, and how many system calls it makes."""
    path, faults = tmp_path_factory.mktemp("tiny") / "store", Faults()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "call", faults)
        tiny.run(path)
    assert faults.count > 60
    return lab.folder_digest(path), faults.count


def test_killed_before_every_system_call(lab, tiny, tiny_oracle, tmp_path, monkeypatch):
    """Before one call is after the other: nothing else reaches the disk in between."""
    expected, count = tiny_oracle
    for at in range(count):
        path = tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", Faults(at, "kill"))
            assert end(lab.fork(partial(tiny.run, path))) == -signal.SIGKILL
        require_sound(path)
        tiny.run(path)
        assert lab.folder_digest(path) == expected


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_at_every_system_call(lab, tiny, tiny_oracle, tmp_path, monkeypatch, code):
    expected, count = tiny_oracle
    writing = {os.write, os.fsync, os.link, os.mkdir}
    full = 0
    for at in range(count):
        path, faults = tmp_path / str(at), Faults(at, code)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", faults)
            with pytest.raises(StoreError) as caught:
                tiny.run(path)
        assert os.strerror(code) in str(caught.value)
        if code != errno.EIO and faults.function in writing:
            assert isinstance(caught.value, StoreFull)
            assert "run the same command again" in str(caught.value)
            full += 1
        require_sound(path)
        tiny.run(path)
        assert lab.folder_digest(path) == expected
    assert code == errno.EIO or full > 20


def test_a_short_write_at_every_call_changes_nothing(lab, tiny, tiny_oracle, tmp_path, monkeypatch):
    expected, count = tiny_oracle
    short = 0
    for at in range(count):
        path, faults = tmp_path / str(at), Faults(at, "short write")
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", faults)
            tiny.run(path)
        assert lab.folder_digest(path) == expected
        short += faults.function is os.write
    assert short >= 6


def test_an_error_at_every_system_call_of_a_reader(lab, finished, monkeypatch):
    def work():
        store = LabelStore.open(finished)
        return store.read(store.rows(lab.Job().keys[:2]))

    counter = Faults()
    with monkeypatch.context() as patch:
        patch.setattr(files, "call", counter)
        work()
    for at in range(counter.count):
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", Faults(at, errno.EIO))
            with pytest.raises(StoreError, match="Input/output error"):
                work()
    assert counter.count > 10


def test_a_full_disk_names_the_bytes_and_keeps_what_is_committed(
    lab, tiny, tiny_oracle, tmp_path, monkeypatch
):
    expected, _ = tiny_oracle
    written = []

    def nearly_full(function, *args, **kwargs):
        if function is os.write:
            if sum(written) + len(args[1]) > 3000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written.append(len(args[1]))
        return function(*args, **kwargs)

    path = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(files, "call", nearly_full)
        with pytest.raises(StoreFull, match=r"00001\.safetensors \(1,\d{3} bytes\)"):
            tiny.run(path)
    assert list(LabelStore.open(path, partial=True)) == tiny.keys[:2]
    assert not list(path.rglob(".tmp.*"))
    tiny.run(path)
    assert lab.folder_digest(path) == expected
