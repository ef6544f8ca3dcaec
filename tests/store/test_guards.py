"""One guard each: what it alone stands against. Without the guard, the test fails."""

import json
import os

import pytest

from drill.drafts import Draft, overwrite
from fkd.errors import DamagedStore, FormatError, StoreError
from fkd.store import LabelStore, StoreWriter, files, opening, verify_store
from fkd.store.canonical import encode
from fkd.store.manifest import ShardEntry

SHARD = "shards/00001.safetensors"


def change_a_row(store) -> None:
    """Another CRC-32 of an image file in shard 1, under a checksum of its row that fits."""
    draft, file = Draft.read(store), store / SHARD
    overwrite(draft, 1, "image.crc32", 2, b"\1\2\3\4", 1)
    whole = file.read_bytes()
    start = len(whole) - len(draft.data[1])
    file.write_bytes(whole[:start] + draft.data[1])


def test_only_the_hash_of_a_file_finds_a_row_with_its_checksum_changed(store):
    change_a_row(store)
    opened = LabelStore.open(store)
    assert opened.images([10]).crc32.tolist() == [0x04030201]  # nothing else sees it
    (problem,) = verify_store(store)
    assert problem.file == SHARD
    assert "differs from its checksum" in problem.message


def test_such_a_shard_is_not_finished(job, store):
    change_a_row(store)
    (store / "manifest.json").unlink()
    with (
        StoreWriter.open(store, job.config) as writer,
        pytest.raises(DamagedStore, match=r"differs from its commit; run `fkd verify .* --repair`"),
    ):
        writer.finish()
    assert not (store / "manifest.json").exists()


def test_another_config_beside_the_manifest_is_found(store):
    config = json.loads((store / "config.json").read_bytes())
    config["class_names"][:2] = config["class_names"][1::-1]
    (store / "config.json").write_bytes(encode(config))
    with pytest.raises(DamagedStore, match=r"config\.json differs from manifest\.json"):
        LabelStore.open(store)
    assert "config.json" in {problem.file for problem in verify_store(store)}


def test_a_commit_of_another_config_is_found(job, store):
    (store / "manifest.json").unlink()
    commit = store / "commits/00001.json"
    commit.write_bytes(encode(json.loads(commit.read_bytes()) | {"config_id": "0" * 64}))
    with pytest.raises(FormatError, match="belongs to a store with another config"):
        LabelStore.open(store, partial=True)
    with pytest.raises(FormatError, match="belongs to a store with another config"):
        StoreWriter.open(store, job.config)


def test_a_commit_that_differs_from_the_manifest_is_found(store):
    commit = store / "commits/00001.json"
    commit.write_bytes(encode(json.loads(commit.read_bytes()) | {"sha256": "0" * 64}))
    with pytest.raises(DamagedStore, match=r"00001\.json was changed"):
        LabelStore.open(store).images([10])
    assert {problem.file for problem in verify_store(store)} == {"commits/00001.json"}


@pytest.mark.parametrize("folder", ["shards", "commits"])
def test_nothing_is_written_through_a_link_in_place_of_a_temporary_file(lab, tmp_path, folder):
    """O_EXCL follows no link."""
    job, outside = lab.Job(), tmp_path / "outside"
    outside.write_text("precious")
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        leaf = {"shards": "00000.safetensors", "commits": "00000.json"}[folder]
        planted = tmp_path / "s" / folder / f"{files.TEMPORARY}{leaf}.{os.getpid()}"
        planted.symlink_to(outside)
        with pytest.raises(StoreError, match="File exists"):
            writer.commit(0, *job.shard(0))
    assert outside.read_text() == "precious"


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_what_is_no_plain_file_is_not_even_opened(store, monkeypatch, kind):
    """Opening a device may do something, such as starting a watchdog."""
    (store / SHARD).unlink()
    os.mkfifo(store / SHARD) if kind == "FIFO" else (store / SHARD).symlink_to("/dev/null")
    call = files.call

    def watched(function, *args, **kwargs):
        assert function is not os.open or "00001.safetensors" not in str(args[0])
        return call(function, *args, **kwargs)

    monkeypatch.setattr(files, "call", watched)
    with pytest.raises(FormatError, match="not a plain file"):
        LabelStore.open(store).images([10])


def test_images_that_a_store_claims_to_have_must_be_there(store, monkeypatch):
    """Else a store of a few bytes would ask for memory for 10^12 images."""
    os.truncate(store / SHARD, 100)
    LabelStore.open(store)  # small stores look at their shards when they read them
    monkeypatch.setattr(opening, "_MANY_IMAGES", 1)
    with pytest.raises(DamagedStore, match=r"00001\.safetensors has 100 bytes"):
        LabelStore.open(store)


def test_a_shard_must_be_as_long_as_its_images_need(job):
    entry = ShardEntry(0, 1 << 20, "0" * 64, "0" * 64, 0, 8, b"a")
    entry.require_range(job.parsed, "m")
    short = ShardEntry(0, 100, "0" * 64, "0" * 64, 0, 8, b"a")
    with pytest.raises(FormatError, match="shard 0 has 100 bytes, but 8 images take at least"):
        short.require_range(job.parsed, "m")
