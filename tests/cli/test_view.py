"""`fkd view` writes over its own pages only."""

import errno
import os
import re
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


def names_in(page) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--filter", "bee"], [f"bee/{i}.png" for i in range(5)]),
        (["--filter.class_name", "bee", "cat", "--page.num_images=4"], ["bee/0.png", "bee/3.png"]),
        (["--page.num_images=4", "--page.number=4"], ["cat/2.png", "cat/4.png"]),
        (["--filter.min_entropy=0.001", "--filter.class_name", "ant"], ["ant/0.png", "ant/4.png"]),
    ],
)
def test_filters_and_pages(view, tmp_path, options, names):
    """By name; the first and the last of the images on the page, or all of them."""
    page = tmp_path / "page.html"
    assert view(f"--out={page}", "--sort=name", *options)[0] == 0
    found = names_in(page)
    assert (found if len(names) > 2 else [found[0], found[-1]]) == names


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--filter.class_name", "zebra"], "there is no class 'zebra'"),
        (["--filter.max_entropy", "0"], "no image of the store passes all conditions"),
        (["--page.number", "3"], "there are 2 pages of 12 images, no page 3"),
        (["--sort", "best"], "sort"),
        (["--port", "8000"], "only a server has one"),
        (["--serve", "--out", "x.html"], "--serve writes no file"),
        (["--serve", "--port", "70000"], "port: 70000 cannot be used"),
    ],
)
def test_impossible_choices_are_one_line(view, options, said):
    code, printed = view(*options)
    assert code == 2
    assert said in printed
    assert printed.count("\n") == 1


def test_it_serves_until_it_is_stopped(view, monkeypatch):
    addresses = []

    def stop(server, *args):
        addresses.append(server.address)
        raise KeyboardInterrupt

    monkeypatch.setattr("fkd.viewing.server.PageServer.serve_forever", stop)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    code, printed = view("--serve")
    assert code == 0
    assert printed.startswith(f"{addresses[0]}  open it in a browser")
    assert "ssh -L" in printed
