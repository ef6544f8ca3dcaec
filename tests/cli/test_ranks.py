"""An error that every process of a run has is printed once."""

import os
import subprocess
import sys

import pytest
from torch.distributed import TCPStore

from fkd.cli.ranks import is_first_to_say


@pytest.fixture
def agent_store(monkeypatch):
    """What torchrun keeps for its processes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def test_alone_a_process_always_speaks(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert is_first_to_say("a")
    assert is_first_to_say("a")


def test_of_several_the_first_with_a_message_speaks(agent_store):
    assert [is_first_to_say(text) for text in ("a", "a", "b", "a", "b")] == [
        *(True, False, True, False, False)
    ]


def test_after_a_restart_the_message_is_said_again(agent_store, monkeypatch):
    assert is_first_to_say("a")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert is_first_to_say("a")


def test_without_an_answer_every_process_speaks(agent_store, monkeypatch):
    monkeypatch.delenv("MASTER_PORT")
    assert is_first_to_say("a")
    assert is_first_to_say("a")


def test_a_mistake_in_the_settings_is_printed_once_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", "-m", "fkd", "train", "--images.root", str(tmp_path)]
    command += ["--student.name", "test_vit", "--out", str(tmp_path / "run"), "--epochs", "0"]
    done = subprocess.run(
        [*command, "--method", "vanilla", "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count("epochs must be at least 1, got 0") == 1
