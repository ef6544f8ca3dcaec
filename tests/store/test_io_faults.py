"""At every system call of every writer: an error, a short write, a kill. Nothing is lost by it.

All system calls of a store go through `files.call`, which is replaced here.
"""

import errno
import fcntl
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from fkd.errors import StoreError, StoreFull
from fkd.store import LabelStore, convert_store, files, repair_store, verify_store

SMALL = 25  # calls at which each fault is tried, of each writer, in `make test`
ALL = 10_000  # more than any writer here makes


class Faults:
    """Replaces `files.call`: counts the calls, and lets one of them fail or die."""

    def __init__(self, at: int = -1, action: object = None) -> None:
        self.called, self.at, self.action = [], at, action
        self.function = None

    def __call__(self, function, *args, **kwargs):
        self.called.append(function)
        if len(self.called) - 1 != self.at:
            return function(*args, **kwargs)
        self.function = function
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "short write" and function is os.write:
            descriptor, data = args
            return os.write(descriptor, data[: len(data) // 2])
        if isinstance(self.action, int):
            if function is os.close:
                os.close(*args)  # the kernel closes a file even when it reports an error
            raise OSError(self.action, os.strerror(self.action))
        return function(*args, **kwargs)


class Writer:
    """Something that writes a store, and may do so again after it has failed.

    Attributes:
        prepare: makes what the work begins with, at a path.
        work: writes the store there.
    """

    def __init__(self, lab, prepare, work):
        self.prepare, self.work, self._lab = prepare, work, lab

    def expected(self, path: Path) -> tuple[str, list]:
        """Digest of the store of an undisturbed run, and its system calls."""
        self.prepare(path)
        faults = Faults()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "call", faults)
            self.work(path)
        return self.digest(path), faults.called

    def digest(self, path: Path) -> str:
        """Of all files but those that were moved away."""
        shutil.rmtree(path / "quarantine", ignore_errors=True)
        return self._lab.folder_digest(path)


def nothing(path: Path) -> None:
    """Work that begins with an empty folder."""


@pytest.fixture(scope="module", params=["label", "label-maps", "convert", "repair"])
def writer(request, lab, tmp_path_factory) -> Writer:
    form = "map" if request.param == "label-maps" else "plain"
    job = lab.Job(num_images=4, images_per_shard=2, form=form)
    if request.param.startswith("label"):
        return Writer(lab, nothing, job.run)
    whole = tmp_path_factory.mktemp("whole") / "store"
    job.run(whole)
    if request.param == "convert":
        return Writer(lab, nothing, partial(convert_store, whole))

    def damaged(path: Path) -> None:
        shutil.copytree(whole, path)
        shard = path / "shards/00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1])

    def repair(path: Path) -> None:
        repair_store(path)
        job.run(path)

    return Writer(lab, damaged, repair)


@pytest.fixture(scope="module")
def oracle(writer, tmp_path_factory) -> tuple[str, list]:
    return writer.expected(tmp_path_factory.mktemp("oracle") / "store")


def spread(count: int, wanted: int) -> list[int]:
    """About `wanted` of `count` numbers, the first and the last among them."""
    wanted = min(count, wanted)
    return sorted({round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)})


def require_sound(path: Path) -> None:
    if (path / "config.json").exists():
        broken = verify_store(path, partial=True)
        assert {p.file for p in broken} <= {"shards/00001.safetensors"}  # damaged to be repaired


@pytest.mark.drill("G2", "an error at a system call of a writer of stores", failing="untyped")
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_an_error_at_every_system_call(writer, oracle, drill, tmp_path, monkeypatch, code):
    expected, called = oracle
    writing = {os.write, os.fsync, os.link, os.mkdir}
    tried = spread(len(called), drill.times(SMALL, goal=ALL))
    for at in tried:
        path, faults = tmp_path / str(at), Faults(at, code)
        writer.prepare(path)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", faults)
            with pytest.raises(StoreError) as caught:
                writer.work(path)
        assert os.strerror(code).lower() in str(caught.value).lower()
        if code == errno.ENOSPC and faults.function in writing:
            assert isinstance(caught.value, StoreFull)
            assert "run the same command again" in str(caught.value)
        require_sound(path)
        writer.work(path)
        assert writer.digest(path) == expected
    drill.tried(len(tried))


@pytest.mark.drill("G2", "a kill before a system call of a writer of stores", failing="lost")
def test_killed_before_every_system_call(lab, writer, oracle, drill, tmp_path, monkeypatch):
    """Before one call is after the other: nothing else reaches the disk in between."""
    expected, called = oracle
    tried = spread(len(called), drill.times(SMALL, goal=ALL))
    for at in tried:
        path = tmp_path / str(at)
        writer.prepare(path)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", Faults(at, "kill"))
            child = lab.fork(partial(writer.work, path))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == -signal.SIGKILL
        require_sound(path)
        writer.work(path)
        assert writer.digest(path) == expected
    drill.tried(len(tried))


@pytest.mark.drill("G2", "a short write of a writer of stores", failing="lost")
def test_a_short_write_at_every_call_changes_nothing(writer, oracle, drill, tmp_path, monkeypatch):
    expected, called = oracle
    tried = [at for at, function in enumerate(called) if function is os.write]
    for at in tried:
        path = tmp_path / str(at)
        writer.prepare(path)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", Faults(at, "short write"))
            writer.work(path)
        assert writer.digest(path) == expected
    assert len(tried) >= 3
    drill.tried(len(tried))


def test_every_kind_of_call_is_among_them(lab, tmp_path, monkeypatch):
    """Opening, looking, locking and closing can fail as well as writing."""
    called = set()

    def note(function, *args, **kwargs):
        called.add(function)
        return function(*args, **kwargs)

    monkeypatch.setattr(files, "call", note)
    lab.Job(num_images=4, images_per_shard=2).run(tmp_path / "s")
    expected = {os.open, os.close, os.stat, os.fstat, os.read, os.write, os.fsync, os.link}
    assert expected | {os.unlink, os.mkdir, os.listdir, fcntl.flock} <= called


def test_an_error_at_every_system_call_of_a_reader(lab, finished, monkeypatch):
    def work():
        store = LabelStore.open(finished)
        return store.read(store.rows(lab.Job().keys[:2]))

    counter = Faults()
    with monkeypatch.context() as patch:
        patch.setattr(files, "call", counter)
        work()
    for at in range(len(counter.called)):
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", Faults(at, errno.EIO))
            with pytest.raises(StoreError, match="Input/output error"):
                work()
    assert len(counter.called) > 10


@pytest.mark.drill("G13", "a full disk in labeling", failing="untyped")
def test_a_full_disk_names_the_bytes_and_keeps_what_is_committed(lab, drill, tmp_path, monkeypatch):
    tiny = lab.Job(num_images=4, images_per_shard=2)
    tiny.run(tmp_path / "oracle")
    expected = lab.folder_digest(tmp_path / "oracle")
    stored = [file for file in (tmp_path / "oracle").rglob("*") if file.is_file()]
    needed = sum(file.stat().st_size for file in stored)

    def disk_of(num_bytes):
        written = []

        def nearly_full(function, *args, **kwargs):
            if function is os.write:
                if sum(written) + len(args[1]) > num_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written.append(len(args[1]))
            return function(*args, **kwargs)

        return nearly_full

    sizes = [3000, *spread(needed, drill.times(3, goal=60))]
    for number, size in enumerate(sizes):
        path = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(files, "call", disk_of(size))
            with pytest.raises(StoreFull, match=r"no space for .* \([\d,]+ bytes\)") as full:
                tiny.run(path)
        if size == 3000:
            assert re.search(r"00001\.safetensors \(1,\d{3} bytes\)", str(full.value))
            assert list(LabelStore.open(path, partial=True)) == tiny.keys[:2]
        assert not list(path.rglob(".tmp.*"))
        tiny.run(path)
        assert lab.folder_digest(path) == expected
    drill.tried(len(sizes))
