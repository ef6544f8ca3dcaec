"""A run that is continued finds images that were changed since, and can label them again."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import CropMismatch, DamagedStore
from fkd.labeling import run as labeling
from fkd.labeling.image_checks import check_images, find_changed_images
from fkd.labeling.run import Progress, label
from fkd.store import LabelStore, StoreWriter, verify_store

SHARDS = 4  # of 15 images, 4 in each


@pytest.fixture
def images(image_folder, tmp_path):
    return Path(shutil.copytree(image_folder, tmp_path / "train"))


@pytest.fixture
def config(make_config, images, tmp_path):
    options = {"images": ImagesConfig(root=str(images)), "spot_checks": 0}
    return make_config(tmp_path / "store", **options)


class Remarks(Progress):
    def __init__(self):
        self.said = []

    def remark(self, text):
        self.said.append(text)


def stop_after(config, commits, monkeypatch):
    """A run that dies when it has committed so many shards."""
    commit, done = StoreWriter.commit, []

    def dying(self, *given):
        if len(done) == commits:
            raise KeyboardInterrupt
        commit(self, *given)
        done.append(given[0])

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            label(config)
    return done


def replace_image(images, name, like="cat/0.png"):
    """Another readable image under the same name."""
    shutil.copy(images / like, images / name)


def inodes(store):
    return {path.name: path.stat().st_ino for path in Path(store, "shards").iterdir()}


@pytest.mark.parametrize("commits", range(1, SHARDS))
def test_a_run_is_refused_before_it_labels_and_repaired(
    config, images, files_of, tmp_path, monkeypatch, commits
):
    stop_after(config, commits, monkeypatch)
    before = inodes(config.out)
    replace_image(images, "ant/1.png")  # in shard 0
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "commit", lambda *given: pytest.fail("labeled all the same"))
        with pytest.raises(CropMismatch, match=r"1 \(.*ant/1\.png; shard 0\).*--repair"):
            label(config)
    remarks = Remarks()
    label(replace(config, repair=True), remarks)
    assert any("ant/1.png" in text for text in remarks.said)
    kept = {name: inode for name, inode in before.items() if name != "00000.safetensors"}
    assert kept.items() <= inodes(config.out).items()
    assert verify_store(config.out) == []
    assert {path.name for path in Path(config.out, "quarantine").iterdir()} == {
        "00000.safetensors",
        "00000.json",
    }
    shutil.rmtree(Path(config.out, "quarantine"))
    fresh = replace(config, out=str(tmp_path / "fresh"))
    label(fresh)
    assert files_of(config.out) == files_of(fresh.out)


@pytest.mark.parametrize("spot_checks", [0, 16])
def test_a_finished_store_is_compared_too(config, images, spot_checks):
    config = replace(config, spot_checks=spot_checks)
    label(config)
    for name in ("ant/1.png", "bee/4.png", "cat/4.png"):
        replace_image(images, name)
    with pytest.raises(CropMismatch, match=r"3 \(.*ant/1\.png.*; shards 0, 2-3\)"):
        label(config)
    assert LabelStore.open(config.out).root_hash  # nothing was touched
    label(replace(config, repair=True))
    check_images(LabelStore.open(config.out), open_source(config.images))
    assert verify_store(config.out) == []


def test_the_original_brought_back_needs_no_repair(config, images, monkeypatch):
    stop_after(config, 2, monkeypatch)
    original = (images / "ant/1.png").read_bytes()
    replace_image(images, "ant/1.png")
    with pytest.raises(CropMismatch):
        label(config)
    (images / "ant/1.png").write_bytes(original)
    label(config)
    assert not Path(config.out, "quarantine").exists()


CHANGES = {
    "a byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "longer": lambda data: data + b"\0",
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_the_bytes_is_found_with_the_same_date(config, images, change):
    label(config)
    file = images / "bee/2.png"
    times = file.stat().st_mtime_ns
    file.write_bytes(change(file.read_bytes()))
    os.utime(file, ns=(times, times))
    store, source = LabelStore.open(config.out), open_source(config.images)
    (row,) = store.rows([b"bee/2.png"]).tolist()
    assert find_changed_images(store, source, range(15), workers=2, rows=np.arange(15)) == [row]
    with pytest.raises(CropMismatch, match=r"bee/2\.png"):
        check_images(store, source)


def test_damage_of_the_store_is_not_taken_for_another_image(config):
    label(config)
    shard = Path(config.out, "shards/00001.safetensors")
    store = LabelStore.open(config.out)
    crc = store.images([5]).crc32.tobytes()
    data = shard.read_bytes()
    assert data.count(crc) == 1
    shard.write_bytes(data.replace(crc, bytes(4)))
    with pytest.raises(DamagedStore, match=r"verify .* --repair"):
        label(config)


def test_a_finished_store_that_may_not_be_written_says_that_it_is_finished(
    config, files_of, monkeypatch
):
    label(config)
    before, remarks = files_of(config.out), Remarks()
    monkeypatch.setattr(labeling, "make_canaries", lambda *given: pytest.fail("labeled again"))
    refuse_writing(monkeypatch)
    result = label(config, remarks)
    assert remarks.said == [f"{config.out} is finished; there is nothing to label"]
    assert result.store.root_hash == LabelStore.open(config.out).root_hash
    assert files_of(config.out) == before


def refuse_writing(monkeypatch):
    """Every system call that writes fails, as on a read-only disk; root may write anywhere else."""
    from fkd.store import files

    call = files.call
    writing = {os.write, os.mkdir, os.link, os.unlink, os.rename}

    def read_only(function, *args, **kwargs):
        creates = function is os.open and args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if function in writing or creates:
            raise OSError(30, os.strerror(30))
        return call(function, *args, **kwargs)

    monkeypatch.setattr(files, "call", read_only)
