"""Killed at any moment, labeling ends in the bytes of an uninterrupted run."""

import os
import random
import shutil
import signal
import time
from functools import partial

import pytest

from fkd.store import verify_store

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
