"""The front of the command line: verbs, help, errors in one line, exit codes."""

import subprocess
import sys

import pytest

from fkd.cli import main, parser
from fkd.cli.verbs import GROUPS, VERBS
from fkd.errors import StoreFull


def test_help_lists_every_verb(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert name.split()[0] in printed
        assert verb.summary in printed or " " in name
    assert max(map(len, printed.splitlines())) < 100


@pytest.mark.parametrize("first", GROUPS)
def test_the_first_of_two_words_lists_the_second(first, capsys):
    main([first, "--help"])
    printed = capsys.readouterr().out
    for name in [name for name in VERBS if name.startswith(f"{first} ")]:
        assert f"  {name.split()[1]:12}{VERBS[name].summary}\n" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["analyze"], "analyze needs to know what; use one of "),
        (["analyze", "storag"], "analyze has no 'storag'; did you mean storage?"),
        (["analyze", "--out"], "analyze has no '--out'; use one of "),
        (["analyz", "storage"], "there is no verb 'analyz'; did you mean analyze?"),
    ],
)
def test_half_a_verb_is_completed(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert f"fkd: error: {said}" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_a_second():
    """A user who looks up a verb should not wait for torch."""
    code = "import sys, fkd.cli; fkd.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: fkd {verb}" in printed
    assert len(printed) > 300


def test_an_unknown_verb_ends_with_2_and_names_the_verbs(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["lable"])
    assert exit_.value.code == 2
    assert "label" in capsys.readouterr().err


def test_an_unknown_option_ends_with_2_and_names_it(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", "somewhere", "--color", "red"])
    assert exit_.value.code == 2
    assert "color" in capsys.readouterr().err


def test_an_unknown_key_of_a_recipe_ends_with_2_and_names_it(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("images:\n  root: somewhere\nout: store\nnum_crop: 3\n")
    with pytest.raises(SystemExit) as exit_:
        main(["label", "--config", str(recipe)])
    assert exit_.value.code == 2
    assert "num_crop" in capsys.readouterr().err


def test_an_error_is_one_line_without_a_traceback(monkeypatch, capsys, tmp_path):
    def full(path: str) -> None:
        raise StoreFull("the disk is full; free 3 MB and run the same command")

    monkeypatch.setattr(parser, "load_command", lambda verb: full)
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", str(tmp_path)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error == "fkd: error: the disk is full; free 3 MB and run the same command\n"


def test_an_interruption_says_that_work_can_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parser, "load_command", lambda verb: interrupted)
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", str(tmp_path)])
    assert exit_.value.code == 130
    assert "resumes" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("fkd 0.")


@pytest.mark.parametrize(
    ("options", "repair"), [(["--repair"], True), ([], False), (["--repair", "false"], False)]
)
def test_a_switch_needs_no_value(options, repair, monkeypatch, tmp_path):
    """Our own messages say `fkd verify STORE --repair`."""
    seen = []

    def check(store: str, *, repair: bool = False) -> None:
        seen.append((store, repair))

    monkeypatch.setattr(parser, "load_command", lambda verb: check)
    for words in (["verify", str(tmp_path), *options], ["verify", *options, str(tmp_path)]):
        main(words)
    assert seen == [(str(tmp_path), repair)] * 2
