"""What is printed, whatever standard output is, and whatever the names in it are."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fkd.cli import main, output
from fkd.cli.verbs import VERBS
from fkd.data.sources import ImagesConfig, open_source
from fkd.store import LabelStore
from tests.cli.commands import command, make_files

HOSTILE = "a[/z]\x1b[31m\x1b]0;t\x07\x9b1m\u202egnp[bold]:dog:"
FORBIDDEN = {"\x1b[31m", "\x1b]0;", "\x07", "\x9b", "\u202e", "\U0001f415"}
QUIET = {verb for verb in VERBS if verb != "demo"}  # the demo works for minutes


def fkd(words, environment=None, **kwargs) -> subprocess.CompletedProcess[bytes]:
    """`fkd` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fkd", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "src"} | (environment or {}),
        timeout=120,
        **kwargs,
    )


def exit_code(words) -> object:
    """Of a command in this process."""
    try:
        main(words)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def files(make_images, make_store, tmp_path_factory):
    """Inputs whose names are not ascii and look like markup."""
    root = tmp_path_factory.mktemp("names") / "caf\xe9 \u732b [" / "x]"
    root.mkdir(parents=True)
    return make_files(root, make_images, make_store, (HOSTILE, "\u732b", "caf\xe9"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("verb", sorted(QUIET))
def test_any_encoding_will_do(verb, encoding, files, tmp_path, monkeypatch):
    """Here in one process; how main sets up the streams is what matters."""
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper((tmp_path / name).open("wb"), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("COLUMNS", "30")
    code = exit_code([verb, *command(verb, files, tmp_path / "\u732b.result")])
    sys.stdout.close()
    sys.stderr.close()
    assert code in (0, 2)
    monkeypatch.undo()
    printed = (tmp_path / "stdout").read_bytes() + (tmp_path / "stderr").read_bytes()
    assert printed
    assert b"Traceback" not in printed


def test_a_c_locale_is_no_obstacle(files):
    done = fkd(
        ["inspect", str(files.store)],
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u732b" in done.stdout


@pytest.mark.parametrize("verb", sorted(QUIET))
def test_names_neither_end_a_verb_nor_reach_the_terminal(verb, files, tmp_path, capsys):
    code = exit_code([verb, *command(verb, files, tmp_path / HOSTILE.replace("/", ""))])
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not [shown for shown in FORBIDDEN if shown in text], text
    assert code in (0, 2), printed.err


def test_an_innocent_folder_does_not_end_inspect(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir[").mkdir()
    link = Path("dir[/z]")
    link.symlink_to(files.store)
    for verb in ("inspect", "verify"):
        main([verb, str(link)])
        assert "dir[/z]" in capsys.readouterr().out


def test_names_on_a_terminal(files):
    """With progress bars and colors."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "fkd", "verify", str(files.store)],
        env=os.environ | {"PYTHONPATH": "src", "TERM": "xterm", "OMP_NUM_THREADS": "1"},
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    printed = b""
    try:
        while part := os.read(leader, 1 << 16):
            printed += part
    except OSError:  # the other end was closed
        pass
    os.close(leader)
    assert child.wait(60) == 0, printed
    text = printed.decode()
    assert not [shown for shown in FORBIDDEN - {"\x1b[31m"} if shown in text]


def test_the_page_spells_out_names(files, tmp_path):
    main(["view", str(files.store), f"--images={files.images}", f"--out={tmp_path / 'page'}"])
    page = (tmp_path / "page").read_text(encoding="utf-8")
    assert not [shown for shown in FORBIDDEN | {"\x1b"} if shown in page]
    assert "\u732b" in page


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


@FULL
@pytest.mark.parametrize("words", [["--help"], ["inspect", "--help"], ["inspect", "STORE"]])
def test_a_full_output_is_one_sentence(words, files):
    words = [str(files.store) if word == "STORE" else word for word in words]
    with open("/dev/full", "wb") as full:
        done = fkd(words, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert "standard output cannot be written: no space left on device" in done.stderr.decode()


@FULL
def test_nobody_can_be_told(files):
    with open("/dev/full", "wb") as full:
        assert fkd(["inspect", "/nowhere"], stdout=full, stderr=full).returncode == 2


@pytest.mark.parametrize("words", [["--help"], ["inspect", "STORE"], ["inspect", "/nowhere"]])
def test_closed_streams_are_silence(words, files):
    words = [str(files.store) if word == "STORE" else word for word in words]
    done = fkd(words, preexec_fn=lambda: (os.close(0), os.close(1)), stderr=subprocess.PIPE)
    assert done.returncode == (2 if "/nowhere" in words else 0), done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(files):
    read, write = os.pipe()
    os.close(read)
    done = fkd(["inspect", str(files.store)], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr == b""


def test_no_file_gets_the_number_of_a_closed_stream(monkeypatch):
    opened = iter([1, 2, 3])
    closed = []
    monkeypatch.setattr(os, "open", lambda path, flags: next(opened))
    monkeypatch.setattr(os, "set_inheritable", lambda descriptor, value: None)
    monkeypatch.setattr(os, "close", closed.append)
    output._occupy_closed()
    assert closed == [3]


def test_the_store_has_hostile_names(files):
    """Or the tests above would show nothing."""
    source = open_source(ImagesConfig(root=str(files.images)))
    assert HOSTILE in LabelStore.open(files.store).class_names
    assert np.unique([source.label(i) for i in range(len(source))]).size == 3
