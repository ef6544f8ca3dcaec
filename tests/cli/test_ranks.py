"""Under torchrun: who works, and who prints what all processes would say."""

import os
import subprocess
import sys

import pytest
from torch.distributed import TCPStore

from fkd.cli import main
from fkd.cli.ranks import is_first_to_say, leave_to_main_process
from fkd.cli.verbs import VERBS


@pytest.fixture
def as_rank(monkeypatch):
    """Pretend to be one of two processes; the variables are put back at the end."""

    def pretend(rank: int) -> None:
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))

    return pretend


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_share_no_work_run_once(verb, as_rank, capsys):
    """A mistake shows who goes on: it is told once."""
    told = []
    for rank in (0, 1):
        as_rank(rank)
        with pytest.raises(SystemExit) as stop:
            main([verb, "--no_such_option", "1"])
        told.append((stop.value.code, "no_such_option" in capsys.readouterr().err))
    assert told == [(2, True), (2, True) if VERBS[verb].shared else (0, False)]


def test_verbs_that_share_work_are_those_that_a_rank_divides():
    shared = {verb for verb in VERBS if VERBS[verb].shared}
    assert shared == {"label", "label-maps", "train", "transfer"}


def test_the_main_process_works_alone(as_rank, monkeypatch):
    """A library that found the variables would wait for the other process."""
    as_rank(0)
    leave_to_main_process(shared=False)
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & os.environ.keys()


def test_inspect_prints_once(as_rank, label_store, capsys):
    for rank in (0, 1):
        as_rank(rank)
        try:
            main(["inspect", str(label_store.path)])
        except SystemExit as stop:
            code = stop.code
    assert code == 0
    assert capsys.readouterr().out.count("root hash") == 1


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
