"""Killed at any moment, labeling ends in the bytes of an uninterrupted run."""

import os
import random
import shutil
import signal
import time
from functools import partial

import pytest

from fkd.store import convert_store, verify_store

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


@pytest.mark.drill("G1", "random kills of labeling and label maps", failing="lost")
@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_at_random_moments_and_run_again(lab, small, oracle, drill, tmp_path, world_size):
    expected, seconds = oracle
    draw, kills, trial = random.Random(world_size), 0, 0
    wanted = KILLS[small.parsed.form, world_size]
    wanted = drill.times(wanted, goal=8 * wanted)
    while kills < wanted:
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
    drill.tried(kills)


@pytest.mark.drill("G1", "random kills of conversion", failing="lost")
def test_conversion_killed_at_random_moments_and_begun_again(lab, small, drill, tmp_path):
    if small.parsed.form == "map":
        pytest.skip("maps have one form")
    small.run(tmp_path / "source")
    start = time.monotonic()
    convert = partial(convert_store, tmp_path / "source", form="plain", num_crops=2)
    convert(tmp_path / "whole")
    seconds, expected = time.monotonic() - start, lab.folder_digest(tmp_path / "whole")
    draw, kills, trial, wanted = random.Random(0), 0, 0, drill.times(8, goal=200)
    while kills < wanted:
        path, code = tmp_path / str(trial := trial + 1), -signal.SIGKILL
        patience = seconds
        while code != 0:
            child = lab.fork(partial(convert, path))
            time.sleep(draw.uniform(0, patience))
            patience *= 1.2  # on a busy machine none would end in the time of the first
            code = kill(child)
            assert code in {0, -signal.SIGKILL}
            kills += code == -signal.SIGKILL
            require_sound(path)
        assert lab.folder_digest(path) == expected
        shutil.rmtree(path)
    drill.tried(kills)
