"""Checkpoints: whole or not there, the newest valid one, never anything but tensors."""

import errno
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import torch

from fkd.engine import checkpoint, durable
from fkd.engine.checkpoint import Checkpoints
from fkd.errors import RunError


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", settings="these")


def state(step):
    return {"step": step, "weights": torch.full((50,), float(step)), "ema": None}


def test_what_is_saved_is_loaded(checkpoints):
    assert checkpoints.load_newest() is None
    checkpoints.save(7, state(7))
    loaded = checkpoints.load_newest()
    assert loaded["step"] == 7
    assert torch.equal(loaded["weights"], state(7)["weights"])


def test_the_newest_two_are_kept(checkpoints):
    for step in (1, 9, 10, 100):
        checkpoints.save(step, state(step))
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == [f"step-{step:08}.{kind}" for step in (10, 100) for kind in ("json", "pt")]
    assert checkpoints.load_newest()["step"] == 100


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(checkpoints, damage):
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    path = checkpoints.folder / "step-00000002.pt"
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.with_suffix(".json").write_text("{")
    said = []
    assert checkpoints.load_newest(said.append)["step"] == 1
    assert said == [f"{path} is damaged; training resumes from the checkpoint before"]


def failing_to_open(victim, code):
    """`open` of a disk that does not give one file."""

    def failing(path, *args):
        if Path(path).name == victim:
            raise OSError(code, os.strerror(code))
        return open(path, *args)

    return failing


def failing_to_read(victim, code):
    """`open` of a disk that gives a file, but not its bytes."""

    class Failing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(code, os.strerror(code))

    def failing(path, *args):
        if Path(path).name == victim:
            return io.BufferedReader(Failing())
        return open(path, *args)

    return failing


def read_with(open_file):
    def read_bytes(path):
        with open_file(path, "rb") as file:
            return file.read()

    return read_bytes


@pytest.mark.parametrize("failing", [failing_to_open, failing_to_read])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE])
@pytest.mark.parametrize("kind", ["pt", "json"])
def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(
    checkpoints, monkeypatch, failing, code, kind
):
    """Going on from an older one would write over what was learned."""
    for step in (1, 2):
        checkpoints.save(step, state(step))
    fails = failing(f"step-00000002.{kind}", code)
    monkeypatch.setattr(checkpoint, "open", fails, raising=False)
    monkeypatch.setattr(Path, "read_bytes", read_with(fails))
    reason = os.strerror(code)[1:]
    with pytest.raises(RunError, match=rf"step-00000002\.pt, the newest .* cannot .*{reason}.*"):
        checkpoints.load_newest()
    older = checkpoints.folder / "step-00000001.pt"
    with pytest.raises(RunError, match=f"--resume_from {older}$"):
        checkpoints.load_newest()
    said = []
    assert checkpoints.load_newest(said.append, resume_from=older)["step"] == 1
    assert len(said) == 1
    assert "passed over as asked" in said[0]


def test_a_newer_checkpoint_that_can_be_read_wins(checkpoints):
    """The same command, given again later, does not undo what it has done."""
    for step in (1, 2):
        checkpoints.save(step, state(step))
    older = checkpoints.folder / "step-00000001.pt"
    assert checkpoints.load_newest(resume_from=older)["step"] == 2


@pytest.mark.parametrize("path", ["step-00000003.pt", "elsewhere/step-00000001.pt"])
def test_only_a_checkpoint_of_the_run_can_be_resumed_from(checkpoints, path):
    checkpoints.save(1, state(1))
    with pytest.raises(RunError, match=r"resume_from: .* is no checkpoint of this run; it has .*1"):
        checkpoints.load_newest(resume_from=checkpoints.folder / path)


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(checkpoints, monkeypatch):
    checkpoints.save(1, state(1))

    def failing(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(durable.os, "listdir", failing)
    with pytest.raises(RunError, match="checkpoints cannot be read: permission denied"):
        checkpoints.load_newest()


def test_later_checkpoints_that_were_passed_over_do_not_push_out_new_ones(checkpoints):
    for step in (1, 9):
        checkpoints.save(step, state(step))
    (checkpoints.folder / "step-00000009.pt").write_bytes(b"damaged")
    for step in (2, 3):
        checkpoints.save(step, state(step))
    names = sorted(path.stem for path in checkpoints.folder.glob("*.json"))
    assert names == [f"step-{step:08}" for step in (2, 3, 9)]


def test_every_single_byte_is_covered(checkpoints):
    checkpoints.save(1, {"step": 1})
    path = checkpoints.folder / "step-00000001.pt"
    data = path.read_bytes()
    for place in range(0, len(data), 13):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(RunError, match=r"all checkpoints in .* are damaged; delete"):
            checkpoints.load_newest()


def test_one_without_its_record_was_never_completed(checkpoints):
    """A kill between the two files."""
    checkpoints.save(1, state(1))
    (checkpoints.folder / "step-00000001.json").unlink()
    assert checkpoints.load_newest() is None


def test_one_of_other_settings_is_refused(checkpoints):
    checkpoints.save(1, state(1))
    other = Checkpoints(checkpoints.folder, settings="others")
    with pytest.raises(RunError, match="belongs to a run with other settings"):
        other.load_newest()


def test_code_in_a_checkpoint_is_not_run(checkpoints, tmp_path):
    """Even with the right checksum: torch loads tensors and plain values only."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    checkpoints.save(1, state(1))
    path = checkpoints.folder / "step-00000001.pt"
    torch.save({"step": Evil()}, path)
    record = json.loads(path.with_suffix(".json").read_text())
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="holds more than tensors and plain values"):
        checkpoints.load_newest()
    assert not (tmp_path / "pwned").exists()


class Full:
    """A disk with room for a few bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)

    def flush(self):
        self.file.flush()

    def fileno(self):
        return self.file.fileno()


@pytest.mark.parametrize("room", [0, 100, 700])
def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(checkpoints, monkeypatch, room):
    checkpoints.save(1, state(1))
    monkeypatch.setattr(durable, "open", lambda *a: Full(Path.open(*a), room), raising=False)
    with pytest.raises(RunError, match="no space left on device; free some space"):
        checkpoints.save(2, state(2))
    assert checkpoints.load_newest()["step"] == 1
    assert not list(checkpoints.folder.glob("*.tmp"))


def test_replacing_a_file_reports_what_was_written(tmp_path):
    path = tmp_path / "file"
    sha256, num_bytes = durable.replace_file(path, lambda file: file.write(b"abc"))
    assert path.read_bytes() == b"abc"
    assert num_bytes == 3
    assert sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_is_on_disk_before_its_name_appears(tmp_path, monkeypatch):
    """Else a power cut leaves a file of zeros under the final name."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(durable.os, name)
        monkeypatch.setattr(
            durable.os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1]
        )
    durable.replace_text(tmp_path / "file", "text")
    assert calls == ["fsync", "replace", "fsync"]
