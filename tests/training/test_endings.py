"""Whatever is raised wherever in a run: it ends by itself, soon, not with 0, and leaves nothing."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.training.endings import left_of

REPOSITORY = Path(__file__).parents[2]
KINDS = ["ImageError", "RuntimeError", "MemoryError", "KeyboardInterrupt"]
KINDS += ["SIGINT", "SIGTERM", "SIGKILL", "exit"]
WORKERS = [(0, "threads"), (2, "threads"), (2, "processes")]
PLACES = ["worker", "forward", "loss", "callback", "checkpoint"]
ALONE_OR_TOGETHER = [1, 2]
WORST_FIRST = [
    ("RuntimeError", (2, "processes"), "forward", 1),
    ("RuntimeError", (2, "processes"), "forward", 2),
    ("SIGKILL", (2, "processes"), "worker", 1),
    ("KeyboardInterrupt", (2, "processes"), "callback", 1),
    ("MemoryError", (2, "processes"), "worker", 1),
    ("SIGINT", (2, "processes"), "worker", 1),
]
OUR_BUGS = {"RuntimeError"}  # may print a traceback


def describe(case, images) -> dict:
    kind, (num_workers, workers), place, ranks = case
    rank = 0 if place in ("callback", "checkpoint") else ranks - 1  # only the main process has them
    return {
        "kind": kind,
        "num_workers": num_workers,
        "workers": workers,
        "place": place,
        "ranks": ranks,
        "rank": rank,
        "images": str(images),
    }


def run(cases, folder, seconds) -> list[dict]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.endings", str(folder)],
        input=json.dumps(cases),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def require_an_ending(case, report) -> None:
    about = f"{case}: {report}"
    assert report["left"] == 0, about
    assert None not in report["codes"], about
    assert report["seconds"] < 30.0, about
    assert 0 not in report["codes"], about
    for rank, (code, log) in enumerate(zip(report["codes"], report["logs"], strict=True)):
        if rank != case["rank"]:
            assert code in (2, 130, 143, -15), about
            assert code != 2 or "fkd: error: another training process ended early" in log, about
        if case["kind"] not in OUR_BUGS:
            assert "Traceback" not in log, about


@pytest.mark.drill("G12", "something raised in a run", failing="untyped")
def test_every_run_ends(drill, image_folder, tmp_path):
    """Exceptions, signals and deaths, in every process and place that a run has."""
    others = [
        case
        for case in product(KINDS, WORKERS, PLACES, ALONE_OR_TOGETHER)
        if case not in WORST_FIRST
    ]
    random.Random(0).shuffle(others)
    number = drill.times(len(WORST_FIRST), goal=len(WORST_FIRST) + len(others))
    cases = [describe(case, image_folder) for case in (WORST_FIRST + others)[:number]]
    reports = run(cases, tmp_path / "runs", 60.0 * number)
    for case, report in zip(cases, reports, strict=True):
        require_an_ending(case, report)
    drill.tried(len(reports))


@pytest.mark.drill("G12", "a rank killed in training", failing="lost")
def test_a_killed_rank_ends_the_others_and_the_same_command_goes_on(drill, image_folder, tmp_path):
    number = drill.times(1, goal=25)
    kinds = [("SIGKILL", WORKERS[i % 3], PLACES[1 + i % 4], 2) for i in range(number)]
    cases = [describe(case, image_folder) | {"again": True} for case in kinds]
    for case, report in zip(cases, run(cases, tmp_path / "runs", 180.0 * number), strict=True):
        require_an_ending(case, report)
        assert report["again"] == [0, 0, 0, 0], report
        assert report["equal"]
    drill.tried(number)


def test_under_torchrun_a_damaged_image_ends_all_ranks(image_folder, tmp_path):
    """The launcher itself, two ranks and their worker processes, all in one session."""
    images = Path(shutil.copytree(image_folder, tmp_path / "images"))
    (images / "bee" / "2.png").write_bytes((images / "bee" / "2.png").read_bytes()[:100])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "fkd", "train", "--method=vanilla", f"--images.root={images}"]
    command += ["--student.name=test_vit", "--student.input_size=32", "--device=cpu"]
    command += ["--num_workers=2", "--workers=processes", "--epochs=2", "--batch_size=8"]
    launcher = subprocess.Popen(
        [*command, f"--out={tmp_path / 'run'}"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    _, said = launcher.communicate(timeout=120)  # returns when nobody holds the pipe any more
    assert launcher.returncode != 0
    assert left_of(launcher.pid) == []
    assert len(re.findall(r"fkd: error: .*bee/2\.png", said)) == 1
