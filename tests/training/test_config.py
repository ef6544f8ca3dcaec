"""What a training configuration says of itself: workers, and the commit of the code."""

import os
import subprocess

import pytest

from fkd.data.sources import ImagesConfig
from fkd.training.config import StudentConfig, TrainConfig, count_workers
from fkd.training.environment import find_commit


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(
        out="run",
        images=ImagesConfig(root="images"),
        student=StudentConfig(name="test_vit"),
        method="vanilla",
        device="cpu",
    )


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (64, 2)])
def test_workers_are_no_more_than_the_cores_of_this_process(config, monkeypatch, cores, expected):
    """Not of the machine: a batch system gives a job a few of them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert count_workers(config) == expected


def test_a_system_without_affinity_counts_its_cores(config, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert count_workers(config) == 1


def test_the_commit_is_that_of_the_code_not_of_a_repository_around_it(tmp_path):
    """A virtual environment often lies in the repository of something else."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    tracked, installed = tmp_path / "mine.py", tmp_path / "venv" / "theirs.py"
    installed.parent.mkdir()
    tracked.touch()
    installed.touch()
    assert find_commit(str(tracked)) is None
    git("init", "-q")
    git("add", "mine.py")
    git("commit", "-q", "-m", "mine")
    assert len(find_commit(str(tracked))) == 40
    assert find_commit(str(installed)) is None
