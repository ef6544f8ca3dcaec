"""`fkd verify` of stores that cannot be repaired: no advice that cannot help."""

import os
from pathlib import Path

import pytest

from fkd.cli import main


@pytest.fixture
def linked(label_store, tmp_path) -> Path:
    """A store as the cache of a hub keeps it: links to files elsewhere."""
    root = Path(label_store.path)
    for file in [path for path in root.rglob("*") if path.is_file()]:
        link = tmp_path / "linked" / file.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return tmp_path / "linked"


def said_of(words, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_store_made_of_links_is_not_repaired(linked, capsys):
    before = sorted(os.listdir(linked))
    said = said_of(["verify", str(linked), "--repair"], capsys)
    assert "is made of links, as a cache of downloads is, and cannot be repaired; get it" in said
    assert sorted(os.listdir(linked)) == before


@pytest.mark.parametrize("name", ["config.json", "shards/00000.safetensors"])
def test_nor_is_that_advised(linked, name, capsys):
    (linked / name).unlink()
    (linked / name).symlink_to("nowhere")
    said = said_of(["verify", str(linked)], capsys)
    assert "its files are links, as in a cache of downloads, so get it again" in said
    assert "--repair" not in said
