"""What a command imports: nothing slow that it does not need."""

import os
import subprocess
import sys

import pytest

from tests.viewing.folders import write_run

SLOW = ("torch", "torchvision", "timm", "accelerate")


def imported(words, cwd) -> tuple[set[str], int]:
    """Top-level modules that a command imports, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fkd", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, done.returncode


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["lable"], 2),
        (["train", "--epoch", "3"], 2),
        (["label", "--images", "/nowhere", "--out", "x"], 2),
        (["label"], 2),
        (["eval", "/nowhere", "--images", "."], 2),
        (["train", "--config", "/nowhere.yaml"], 2),
    ],
)
def test_help_and_mistakes_import_neither_torch_nor_numpy(words, code, tmp_path):
    modules, ended = imported(words, tmp_path)
    assert ended == code
    assert not modules & {*SLOW, "numpy", "jsonargparse", "rich"}


@pytest.mark.parametrize("verb", ["inspect", "verify"])
@pytest.mark.parametrize("more", [[], ["--help"]])
def test_looking_at_a_store_imports_no_torch(verb, more, label_store, tmp_path):
    if (verb, more) == ("verify", ["--help"]):
        pytest.skip("its options are those of teachers and images, too")
    modules, ended = imported([verb, str(label_store.path), *more], tmp_path)
    assert ended == 0
    assert not modules & set(SLOW)


def test_a_report_of_runs_imports_no_torch(tmp_path):
    run = write_run(tmp_path / "run")
    modules, ended = imported(["report", str(run), "--out", str(tmp_path / "r.html")], tmp_path)
    assert ended == 0
    assert not modules & {*SLOW, "matplotlib"}
