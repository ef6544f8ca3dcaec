"""Files that a user names."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from fkd.errors import ConfigError, escape_controls
from fkd.userfiles import home_path, os_reason, read_text, settle_paths


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_path("~/photos") == tmp_path / "photos"
    assert str(home_path("a/~b")) == "a/~b"


def test_a_home_that_is_not_known_stays_as_it_is():
    assert str(home_path("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"


def test_paths_of_a_config(monkeypatch, tmp_path):
    @dataclass(frozen=True)
    class Paths:
        out: object
        store: object = None

        def __post_init__(self):
            settle_paths(self, "out", "store")

    monkeypatch.setenv("HOME", str(tmp_path))
    assert Paths("~/out", Path("~/x")) == Paths(f"{tmp_path}/out", f"{tmp_path}/x")
    assert Paths("a/~", None).store is None
    with pytest.raises(ConfigError, match="out: a path is text, got 3"):
        Paths(3)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO, errno.ELOOP])
def test_reason(code):
    reason = os_reason(OSError(code, os.strerror(code)))
    assert reason.lower() == os.strerror(code).lower()
    assert os_reason(OSError("Odd")) == "odd"


def test_text_without_its_byte_order_mark(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("cat\nGrüße\n".encode("utf-8-sig"))
    assert read_text("images.class_names", path) == "cat\nGrüße\n"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_of_another_encoding(tmp_path, encoding):
    path = tmp_path / "names.txt"
    path.write_bytes("cat\nGrüße\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"class_names: .*names.txt is not a text file in UTF-8"):
        read_text("class_names", path)


def test_text_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: no such file or directory"):
        read_text("class_names", tmp_path / "names.txt")
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        read_text("class_names", tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\x1b]0;title\x07", r"a\x1b]0;title\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("a\u202eb", r"a\u202eb"),
        ("a\x9bb", r"a\x9bb"),
        ("日本\u3000語 Grüße 🙂", "日本\u3000語 Grüße 🙂"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_are_spelled_out(text, shown):
    assert escape_controls(text) == shown
