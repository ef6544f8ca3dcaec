"""Every path option of every verb, with every kind of path that cannot work: one sentence.

A new option is included by itself: path options are found by name in the list of options, and a
description that speaks of a file or a folder belongs to one of those names.
"""

import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

import fkd.cli.demo
from fkd.cli import main
from fkd.cli.arguments import options_of
from fkd.cli.paths import INPUTS, OUTPUTS
from fkd.cli.verbs import VERBS
from tests.cli.commands import NOT_PATHS, Files, command, make_files, path_options

PATHS = path_options()
NOBODY = 65534
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another user is needed"
)


@pytest.fixture(scope="module")
def room(make_images, make_store):
    """A folder that another user may enter, with all inputs."""
    with tempfile.TemporaryDirectory(prefix="fkd-paths-") as name:
        Path(name).chmod(0o755)
        yield Path(name), make_files(Path(name), make_images, make_store)


@pytest.fixture(autouse=True)
def no_demo(monkeypatch):
    """The demo takes minutes; it is stopped where it would begin."""

    def begin(out, *rest):
        Path(out).mkdir(parents=True, exist_ok=True)
        raise SystemExit(0)

    monkeypatch.setattr(fkd.cli.demo, "label_photographs", begin)


def file_in(root: Path, name: str, content: bytes = b"") -> Path:
    (root / name).write_bytes(content)
    return root / name


def folder_in(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def loop_in(root: Path, name: str) -> Path:
    (root / name).symlink_to(name)
    return root / name


SITUATIONS = {
    "missing": lambda root: root / "missing",
    "missing in a missing folder": lambda root: root / "no" / "where",
    "empty folder": lambda root: folder_in(root, "empty"),
    "empty file": lambda root: file_in(root, "empty.yaml"),
    "file": lambda root: file_in(root, "file", b"\x00\xff binary"),
    "below a file": lambda root: file_in(root, "file", b"x") / "below",
    "too long a name": lambda root: root / ("x" * 300),
    "too long a path": lambda root: root / "/".join(["x" * 200] * 25),
    "loop of links": lambda root: loop_in(root, "loop"),
    "below a loop": lambda root: loop_in(root, "loop") / "below",
    "link to nowhere": lambda root: _link(root, "dangling", "nowhere"),
    "null byte": lambda root: f"{root}/a\0b",
    "device": lambda root: "/dev/null",
    "full device": lambda root: "/dev/full",
    "nothing": lambda root: "",
}


def _link(root: Path, name: str, target: str) -> Path:
    (root / name).symlink_to(target)
    return root / name


def words_for(verb: str, option: str, path: object, files: Files, out: Path) -> list[str]:
    """A command whose only doubtful word is the path."""
    words = command(verb, files, out)
    if not option.startswith("-"):
        return [verb, str(path), *words[1:]]
    kept = [word for word in words if not word.startswith(f"{option}=")]
    return [verb, *kept, f"{option}={path}"]


def run(words: list[str], capsys) -> tuple[object, str]:
    """Exit code and what was printed; an exception is a traceback on a command line."""
    try:
        main(words)
        code: object = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        code = traceback.format_exc()
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(("verb", "option"), PATHS)
def test_paths_that_cannot_work(verb, option, room, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, (situation, make) in enumerate(SITUATIONS.items()):
        place = folder_in(tmp_path, str(number))
        words = words_for(verb, option, make(place), room[1], place / "out")
        code, printed = run(words, capsys)
        assert code in (0, 2), (situation, code, printed)
        assert "Traceback" not in printed, (situation, printed)
        errors = [line for line in printed.splitlines() if line.startswith("fkd: error:")]
        assert len(errors) == (code == 2), (situation, printed)
        if situation.startswith(("loop", "below", "too long")) and code == 2:
            assert "does not exist" not in printed, (situation, printed)


@pytest.mark.parametrize("address", ["s3://bucket/labels", "https://host/labels"])
@pytest.mark.parametrize(("verb", "option"), PATHS)
def test_an_address_is_no_path(verb, option, address, room, tmp_path, capsys, monkeypatch):
    """It would be a folder called "s3:", which the user takes for a bucket."""
    monkeypatch.chdir(tmp_path)
    code, printed = run(words_for(verb, option, address, room[1], tmp_path / "out"), capsys)
    assert code == 2, printed
    if option.lstrip("-").rpartition(".")[2] not in NOT_PATHS:
        assert f"{address} is an address and no path here" in printed
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("verb", "option", "checkpoint"),
    [
        ("label", "--teacher.name", "--teacher.checkpoint"),
        ("train", "--student.name", "--student.checkpoint"),
        ("eval", "model", "--checkpoint"),
    ],
)
def test_weights_in_the_place_of_a_name(verb, option, checkpoint, room, tmp_path, capsys):
    words = words_for(verb, option, room[1].weights, room[1], tmp_path / "out")
    code, printed = run(words, capsys)
    assert code == 2
    assert "weights.safetensors is a file; give" in printed
    assert f"weights go into {checkpoint}, beside the name of their network" in printed


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_a_file_of_settings_without_any_says_so(content, room, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(content, encoding="utf-8")
    code, printed = run(["plan", f"--config={path}"], capsys)
    assert (code, printed.count("\n")) == (2, 1)
    assert "settings.yaml is empty; give a YAML file of settings" in printed


def test_settings_through_a_pipe_are_read_once(room, tmp_path, capsys):
    """As a shell gives them: --config <(generate ...)."""
    reader, writer = os.pipe()
    os.write(writer, b"num_crops: 3\n")
    os.close(writer)
    words = [word for word in command("plan", room[1], tmp_path) if "num_crops" not in word]
    code, printed = run(["plan", *words, f"--config=/dev/fd/{reader}"], capsys)
    os.close(reader)
    assert code == 0, printed
    assert "6 x 3 crops" in printed


def as_nobody(words: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a command that another user gives; 99 for an exception."""
    written = folder / "printed"
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(60)
            descriptor = os.open(written, os.O_RDWR | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.setgroups([])
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            main(words)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), written.read_text()


def closed_folder(root: Path) -> Path:
    """Below a folder that another user may not enter."""
    folder_in(folder_in(root, "closed"), "inside")
    file_in(root / "closed", "inside.yaml", b"{}")
    (root / "closed").chmod(0o700)
    return root / "closed" / "inside"


def closed_file(root: Path) -> Path:
    file_in(root, "secret", b"{}").chmod(0o600)
    return root / "secret"


def unlistable_folder(root: Path) -> Path:
    """A folder that another user may see, but not list."""
    folder_in(root, "unlistable").chmod(0o700)
    return root / "unlistable"


def read_only_folder(root: Path) -> Path:
    folder_in(root, "locked").chmod(0o555)
    return root / "locked" / "new"


WRITES_NOTHING = {("plan", "--out"), ("demo", "--out")}  # the demo: in this test


@needs_root
@pytest.mark.parametrize(("verb", "option"), PATHS)
def test_paths_without_permission(verb, option, room):
    root, files = room
    for make in (closed_folder, closed_file, unlistable_folder, read_only_folder):
        place = Path(tempfile.mkdtemp(dir=root))
        place.chmod(0o755)
        writable = folder_in(place, "writable")
        writable.chmod(0o777)
        path = make(place)
        words = words_for(verb, option, path, files, writable / "out")
        code, printed = as_nobody(words, place)
        assert code == 2 or (code == 0 and (verb, option) in WRITES_NOTHING), printed
        assert "Traceback" not in printed
        assert printed.count("fkd: error:") == (code == 2), printed
        if code and make is closed_folder:
            assert "does not exist" not in printed
            assert "ermission" in printed, printed


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_described_as_a_file_or_folder_is_a_path_option(verb, capsys):
    """Or this loop would not know of it."""
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    known = {*INPUTS, *OUTPUTS, "images", "teacher", "student", "print_config", "head"}
    options = {*options_of(verb).positional, *options_of(verb).names}
    name = ""
    for line in capsys.readouterr().out.partition("\noptions:")[2].splitlines():
        words = line.split()
        if (
            line.startswith("  ")
            and words
            and words[0].lstrip("-") in {o.lstrip("-") for o in options}
        ):
            name = words[0].lstrip("-").rpartition(".")[2]
        text = line.lower()
        if name and ("folder of" in text or "a file" in text or "file of" in text):
            assert name in known or (verb, name) in NOT_A_PATH, (name, line)


NOT_A_PATH = {
    ("train", "labels"),
    ("train", "maps"),
    ("import-labels", "classes"),
    ("export", "overwrite"),
    ("view", "overwrite"),
    ("report", "overwrite"),
}
