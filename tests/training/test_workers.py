"""Workers that load batches, where their number is not given."""

import os

import pytest

from fkd.data.sources import ImagesConfig
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.workers import count_workers


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
