"""Under torchrun: who works."""

import pytest

from fkd.cli import main
from fkd.cli.ranks import leave_to_main_process
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
    assert {verb for verb in VERBS if VERBS[verb].shared} == {"label", "label-maps", "train"}


def test_the_main_process_works_alone(as_rank, monkeypatch):
    """A library that found the variables would wait for the other process."""
    import os

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
