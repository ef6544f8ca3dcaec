"""A disk that fails in training: a typed error, and the same command ends in the same weights."""

import errno
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fkd.engine.logging import Progress
from fkd.errors import RunError
from fkd.training.run import train
from tests.training.faults import FaultyDisk
from tests.training.mounts import with_small_disk

ACTIONS = [errno.EIO, errno.ENOSPC, errno.EACCES, "short", "kill"]


class Stop(Exception):
    """Ends a run like a kill."""


class StopAfter(Progress):
    """Lets a run leave two checkpoints."""

    def advance(self, step, metrics):
        if step == 3:
            raise Stop


@pytest.fixture(params=["new", "resumed"])
def start(request, plain_run, tmp_path):
    """Makes a folder to start in: none, or that of a run that was stopped."""
    stopped = replace(plain_run, out=str(tmp_path / "stopped"))
    with pytest.raises(Stop):
        train(stopped, StopAfter())

    def prepare(config):
        shutil.rmtree(config.out, ignore_errors=True)
        if request.param == "resumed":
            shutil.copytree(stopped.out, config.out)

    return prepare


@pytest.fixture
def reference(plain_run, tmp_path):
    config = replace(plain_run, out=str(tmp_path / "reference"))
    train(config)
    return config


def attempt(config, at, action) -> FaultyDisk:
    """Train on a disk whose operation `at` fails; a RunError, or the operation did not matter."""
    disk, said = FaultyDisk(config.out, at, action), config.out
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        try:
            train(config)
        except RunError as error:
            said = str(error)
    assert config.out in said, (disk.failed, said)
    assert "\n" not in said
    return disk


def attempt_in_child(config, at) -> None:
    """The same for a kill."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(config, at, "kill")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL)


@pytest.mark.drill("G2", "a fault at every operation of training", failing="untyped")
def test_a_fault_at_every_operation(drill, start, plain_run, reference, require_same_outcome):
    start(plain_run)
    count = attempt(plain_run, -1, None).count
    assert count > 100
    trials = [(at, action) for at in range(count) for action in ACTIONS]
    number = min(drill.times(8, goal=len(trials)), len(trials))
    for at, action in trials[:: len(trials) // number][:number]:
        start(plain_run)
        if action == "kill":
            attempt_in_child(plain_run, at)
        else:
            attempt(plain_run, at, action)
        train(plain_run)
        require_same_outcome(plain_run, reference)
    drill.tried(number)


@pytest.mark.drill("G13", "a full disk in training", failing="untyped")
def test_a_disk_of_any_size_that_is_too_small(
    drill, plain_run, reference, require_same_outcome, tmp_path
):
    """A real one; with more room, the same command ends in the same weights."""
    needed = sum(path.stat().st_size for path in Path(reference.out).rglob("*")) // 1024
    number = drill.times(3, goal=60)
    sizes = [8 + i * needed // number for i in range(number)]
    for size in sizes:
        out = tmp_path / f"disk-{size}"
        config = replace(plain_run, out=str(out / "run"))
        said = with_small_disk(out, size, partial(train, config))
        if said is None:
            pytest.skip("needs the right to mount")
        if said != "TrainResult":
            assert said.startswith("RunError: "), said
            assert "no space left on device" in said.lower()
            assert "resumes from the last checkpoint" in said
        train(config)
        require_same_outcome(config, reference)
    drill.tried(number)
