"""SIGKILL at random moments, a lost process, and torchrun: always the same bytes in the end."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from fkd.labeling.run import label

SMALL, GOAL = 6, 200  # trials


@pytest.fixture(scope="module")
def trials(drill_scale):
    """Runs that are killed until one survives."""
    return SMALL if drill_scale is None else math.ceil(drill_scale * GOAL)


@pytest.fixture(scope="module")
def report(image_folder, teacher, tmp_path_factory, trials):
    script = Path(__file__).with_name("forks.py")
    folder = tmp_path_factory.mktemp("kills")
    arguments = [str(image_folder), teacher.checkpoint, str(folder), str(trials)]
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 + 10 * trials)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


@pytest.mark.drill("G1", "random kills of labeling with a teacher", failing="lost")
def test_killed_runs_end_in_the_same_bytes(report, trials, drill):
    assert report["trials_with_the_same_bytes"] == trials
    assert report["kills"] >= trials
    drill.tried(report["kills"])


def test_a_process_whose_peer_dies_ends_and_says_so(report):
    assert report["leader_left_alone"]["exit_code"] == 2
    assert report["leader_left_alone"]["seconds"] < 20
    assert "another labeling process ended early" in report["stderr"]


def test_two_processes_go_on_where_one_died_and_write_the_same_bytes(report):
    assert report["resumed"] == [0, 0]
    assert report["ranks_wrote_the_same_bytes"]


def test_torchrun_shares_the_work_and_writes_the_same_bytes(
    make_config, teacher, image_folder, tmp_path, files_of
):
    label(make_config(tmp_path / "one"))
    options = {
        "images.root": image_folder,
        "teacher.name": teacher.name,
        "teacher.checkpoint": teacher.checkpoint,
        "teacher.input_size": teacher.input_size,
        "num_crops": 5,
        "codec": "ms:3",
        "images_per_shard": 4,
        "batch_size": 8,
        "accuracy_images": 0,
        "spot_checks": 16,
        "out": tmp_path / "two",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*run, "-m", "fkd", "label", *flags], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("root hash") == 1  # process 0 speaks for all
    assert "2 processes" in done.stdout
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
