"""`fkd report` on the command line."""

import pytest

from fkd.cli import main
from fkd.cli.arguments import join_positional, read_arguments
from tests.viewing.folders import write_run


def run(capsys, *words):
    code = 0
    try:
        main(["report", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_several_runs_and_figures_are_words(tmp_path, capsys):
    folders = [write_run(tmp_path / name) for name in ("a", "b", "[c]")]
    for name in ("x.svg", "y.svg"):
        (tmp_path / name).write_text("<svg/>")
    page = tmp_path / "report.html"
    figures = ["--figures", tmp_path / "x.svg", tmp_path / "y.svg"]
    code, said = run(capsys, *folders, *figures, "--out", page, "--title", "Mine")
    assert code == 0, said
    assert said.startswith(f"{page} (")
    text = page.read_text(encoding="utf-8")
    assert text.count('class="picture"') == 2
    assert "<h1>Mine</h1>" in text
    code, _ = run(capsys, folders[0], f"--out={page}")  # its own page is written again
    assert code == 0
    assert len(page.read_text(encoding="utf-8")) < len(text)


@pytest.mark.parametrize(
    ("words", "lists"),
    [
        (["a"], {"": '["a"]'}),
        (["a", "b", "--title", "t", "c"], {"": '["a", "b", "c"]', "--title": "t"}),
        (["a", "--figures", "x", "y", "--out=o"], {"": '["a"]', "--figures": '["x", "y"]'}),
        (["a", "--figures=[x, y]"], {"": '["a"]', "--figures": "[x, y]"}),
    ],
)
def test_words_become_lists(words, lists):
    arguments = join_positional("report", read_arguments("report", words))
    found = {argument.option: argument.value for argument in arguments}
    assert lists.items() <= found.items()


def test_mistakes_are_one_line(tmp_path, capsys):
    folder = write_run(tmp_path / "a")
    (tmp_path / "notes.html").write_text("mine")
    for words, said in (
        ([], "report needs RUNS, e.g. fkd report"),
        ([tmp_path], "is not the folder of a run"),
        ([tmp_path / "gone"], "cannot be opened"),
        ([folder, tmp_path / "gone"], "cannot be opened"),
        ([f"{tmp_path}/a\0b"], "null byte"),
        ([tmp_path / ("x" * 300)], "file name too long"),
        ([folder, "--figures", tmp_path / "gone.svg"], "cannot be read"),
        ([folder, "--out", tmp_path], "is a folder"),
        ([folder, "--out", tmp_path / "notes.html"], "was not written by `fkd report`"),
        ([folder, "--out", tmp_path / "none/r.html"], "cannot be written"),
        ([folder, "--out", tmp_path / "r.html", "--figures", "x.pdf"], "no kind that a page"),
    ):
        code, printed = run(capsys, *words)
        assert code == 2, words
        assert said in printed
        assert printed.count("\n") == 1
    assert (tmp_path / "notes.html").read_text() == "mine"
    assert not (tmp_path / "r.html").exists()
