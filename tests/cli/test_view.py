"""`fkd view` writes over its own pages only."""

import errno
import os
from pathlib import Path

import pytest

from fkd.cli import main


@pytest.fixture
def view(label_store, image_folder, capsys):
    """Gives the command; returns its exit code and what it said."""

    def run(*options):
        code = 0
        try:
            main(["view", str(label_store.path), f"--images={image_folder}", *map(str, options)])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_its_own_page_is_written_again(view, tmp_path):
    page = tmp_path / "page.html"
    assert view(f"--out={page}")[0] == 0
    first = page.read_bytes()
    assert view(f"--out={page}", "--page.num_images=1")[0] == 0
    assert len(page.read_bytes()) < len(first)


@pytest.mark.parametrize("content", [b"", b"my notes", b"<html>another page</html>"])
def test_anothers_file_is_kept(view, tmp_path, content):
    (tmp_path / "notes.html").write_bytes(content)
    code, said = view(f"--out={tmp_path / 'notes.html'}")
    assert code == 2
    assert "was not written by `fkd view`; give another file, or --overwrite" in said
    assert (tmp_path / "notes.html").read_bytes() == content
    assert view(f"--out={tmp_path / 'notes.html'}", "--overwrite")[0] == 0
    assert b"fkd view" in (tmp_path / "notes.html").read_bytes()


def test_a_link_to_nowhere_is_no_free_place(view, tmp_path):
    (tmp_path / "page.html").symlink_to(tmp_path / "elsewhere")
    assert view(f"--out={tmp_path / 'page.html'}")[0] == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_is_no_page(view, tmp_path, overwrite):
    code, said = view(f"--out={tmp_path}", *overwrite)
    assert (code, said) == (
        2,
        f"fkd: error: out: {tmp_path} is a folder; give the file of the page, such as page.html\n",
    )


def test_the_store_may_be_the_current_folder(label_store, image_folder, tmp_path, monkeypatch):
    (tmp_path / "store").symlink_to(label_store.path)
    monkeypatch.chdir(tmp_path / "store")
    main(["view", ".", f"--images={image_folder}"])
    folder = label_store.path
    assert folder.with_name(f"{folder.name}.html").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_is_named_and_no_torn_page_is_left(view, tmp_path, monkeypatch, number):
    """An empty file would be another's the next time. The system does not name it in a write."""
    page = tmp_path / "page.html"

    def fail(path, text, encoding):
        path.touch()
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        code, said = view(f"--out={page}")
    assert code == 2
    assert f"out: {page} cannot be written: " in " ".join(said.split())
    assert not page.exists()
    assert view(f"--out={page}")[0] == 0
