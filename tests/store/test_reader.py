import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fkd.errors import DamagedStore, FormatError, MissingLabel, NewerFormat, StoreMismatch
from fkd.labels.quantization import dequantize, quantize
from fkd.store import (
    LabelStore,
    StoreWriter,
    canonical,
    keys_digest,
    repair_store,
    verify_store,
)
from fkd.store.config import StoreConfig
from fkd.store.join import join_images

CODECS = [
    ("ms:2", "u16"),
    ("mr:3", "f16"),
    ("smoothing", "f32"),
    ("hard", "u16"),
    ("full", "u16"),
    ("logits", "f16"),
    ("sigmoid", "u16"),
]


@pytest.mark.parametrize(("codec", "value_dtype"), CODECS, ids=lambda value: str(value))
def test_what_was_written_is_read(lab, form, tmp_path, codec, value_dtype):
    job = lab.Job(
        codec=codec, value_dtype=value_dtype, extras=lab.JITTER, unreadable=False, form=form
    )
    job.run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    rows = np.arange(20)
    read = store.read(rows)
    for number in range(3):
        content, part = job.content(number), slice(*job.parsed.shard_range(number))
        np.testing.assert_array_equal(read.records.box[part], content.records.box)
        np.testing.assert_array_equal(read.records.flip[part], content.records.flip)
        for name, values in content.records.extra.items():
            np.testing.assert_array_equal(read.records.extra[name][part], values)
            assert read.records.extra[name].dtype == values.dtype
        np.testing.assert_array_equal(read.images.crc32[part], content.images.crc32)
        np.testing.assert_array_equal(read.images.num_bytes[part], content.images.num_bytes)
        np.testing.assert_array_equal(read.images.size[part], content.images.size)
        assert store.keys(rows[part]) == job.shard(number)[0]
        if content.label.ids is None:
            assert read.label.ids is None
        else:
            np.testing.assert_array_equal(read.label.ids[part], content.label.ids)
        if content.label.values is None:
            assert read.label.values is None
        elif job.parsed.levels:
            given = content.label.values
            scaled = given / given.sum(2, keepdims=True) if codec == "mr:3" else given
            np.testing.assert_allclose(read.label.values[part], scaled, atol=4e-3)
        else:
            dtype = job.parsed.value_dtype
            stored = dequantize(quantize(content.label.values, dtype), dtype)
            np.testing.assert_array_equal(read.label.values[part], stored)


def test_chosen_crops_come_in_the_order_asked_for(lab, form, tmp_path):
    lab.Job(num_crops=20, unreadable=False, form=form).run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    every = store.read(np.arange(20))
    rows = np.array([19, 0, 7, 8, 0])
    crops = np.array([[3, 0], [1, 1], [19, 9], [8, 7], [2, 16]])
    some = store.read(rows, crops)
    at = (rows[:, None], crops)
    np.testing.assert_array_equal(some.records.box, every.records.box[at])
    np.testing.assert_array_equal(some.records.flip, every.records.flip[at])
    np.testing.assert_array_equal(some.label.ids, every.label.ids[at])
    np.testing.assert_array_equal(some.label.values, every.label.values[at])
    np.testing.assert_array_equal(some.images.crc32, every.images.crc32[rows])
    assert some.records.shape == (5, 2)


def test_nothing_may_be_read_as_well(finished):
    read = LabelStore.open(finished).read([], np.empty((0, 2), int))
    assert read.records.box.shape == (0, 2, 4)
    assert read.label.ids.shape == (0, 2, 2)


def test_what_is_returned_is_the_readers_own(finished):
    store = LabelStore.open(finished)
    store.read([0]).records.box[:] = 0
    assert store.read([0]).records.box.any()


@pytest.mark.parametrize("rows", [[20], [-1], [0, 99]])
def test_rows_out_of_range_are_refused(finished, rows):
    with pytest.raises(IndexError, match="20"):
        LabelStore.open(finished).read(rows)


@pytest.mark.parametrize("crops", [[[3]], [[-1]], [0], [[0], [1]]])
def test_crops_out_of_range_are_refused(finished, crops):
    with pytest.raises(IndexError, match="crops"):
        LabelStore.open(finished).read([0], crops)


def test_an_entry_decodes_to_soft_labels(lab, finished):
    store = LabelStore.open(finished)
    entry = store[lab.Job().keys[5]]
    assert entry.size == (65, 195)
    assert entry.label.ids.shape == (3, 2)
    label = entry.decode()
    assert label.shape == (3, 10)
    torch.testing.assert_close(label.sum(1), torch.ones(3))
    assert label.argmax(1).tolist() == entry.label.ids[:, 0].tolist()


def test_keys_are_bytes_or_text(lab, finished):
    store = LabelStore.open(finished)
    name = lab.Job().keys[0]
    assert store[os.fsdecode(name)].key == store[name].key == name


def test_rows_finds_every_key_in_any_order(lab, finished):
    store, keys = LabelStore.open(finished), lab.Job().keys
    order = [17, 3, 3, 0, 19, 8]
    assert store.rows([keys[i] for i in order]).tolist() == order
    assert store.rows(keys).tolist() == list(range(20))
    assert store.rows([]).tolist() == []
    assert list(store) == store.keys() == keys
    assert store.keys(slice(2, 10, 3)) == keys[2:10:3]
    assert len(store) == 20


def test_a_key_is_in_the_store_as_bytes_and_as_text(lab, finished):
    store, keys = LabelStore.open(finished), lab.Job().keys
    assert all(key in store and os.fsdecode(key) in store for key in keys)
    for unknown in ("", "a.jpg", keys[0][:-1], keys[-1] + b"x", b"zz", "n00/caf\u00e9 00001.jpg"):
        assert unknown not in store


def test_whether_a_key_is_in_the_store_is_told_without_looking_at_all_others(lab, finished):
    store, read = LabelStore.open(finished), []
    shard_of = store._shard
    store._shard = lambda number: read.append(number) or shard_of(number)
    assert lab.Job().keys[17] in store
    assert read == [2]


def test_many_keys_of_one_shard_are_found_too(lab, tmp_path):
    job = lab.Job(num_images=40, images_per_shard=40)
    job.run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    assert store.rows(job.keys[::-1]).tolist() == list(range(39, -1, -1))
    with pytest.raises(MissingLabel, match="1 of 41"):
        store.rows([*job.keys, b"n00/cafe"])


@pytest.mark.parametrize("unknown", [b"", b"a", b"n00/caf\xc3\xa9 00001.jpg", b"zz", b"n01"])
def test_unknown_keys_are_counted_and_named(lab, finished, unknown):
    known = lab.Job().keys[:3]
    with pytest.raises(MissingLabel, match="2 of 5 images") as caught:
        LabelStore.open(finished).rows([*known, unknown, b"zz"])
    assert unknown.decode() in str(caught.value)


def test_names_that_differ_a_little_are_different_images(lab, tmp_path):
    """The official code drops everything after the first dot, and mixes such images up."""
    keys = [b"E.jpg", b"a.v1.jpg", b"a.v2.jpg", b"cafe\xcc\x81", b"caf\xc3\xa9", b"e.jpg", b"\xff"]
    job = lab.Job(num_images=7, unreadable=False)
    job.keys = sorted(keys)
    job.config["keys_sha256"] = keys_digest(job.keys)
    job.run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    rows = store.rows(keys)
    assert sorted(rows.tolist()) == list(range(7))
    assert [store[key].key for key in keys] == keys


def test_an_unreadable_image_has_a_row_but_no_labels(lab, finished):
    store, keys = LabelStore.open(finished), lab.Job().keys
    with pytest.raises(MissingLabel, match=r"no labels for 1 of these.*00009\.jpg"):
        store.read([2, 3])
    assert store.images([2, 3, 14]).status.tolist() == [0, 1, 1]
    assert store.rows([keys[3]]).tolist() == [3]


def test_boxes_beyond_65535_pixels_are_kept(lab, tmp_path):
    job = lab.Job(images_per_shard=5, unreadable=False)
    wide = lab.Job(images_per_shard=5, unreadable=False, widest=70_000)
    far = job.content(1)
    far = replace(
        wide.content(1),
        records=replace(far.records, box=far.records.box + np.array([0, 69_000, 0, 0])),
    )
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        for number in writer.pending():
            keys, content = job.shard(number)
            writer.commit(number, keys, far if number == 1 else content)
        writer.finish()
    store = LabelStore.open(tmp_path / "s")
    rows = np.array([19, 5, 0, 9])
    box = store.read(rows).records.box
    np.testing.assert_array_equal(box[1], far.records.box[0])
    np.testing.assert_array_equal(box[3], far.records.box[4])
    np.testing.assert_array_equal(box[0], job.content(3).records.box[4])
    assert box[1].max() > 65_535
    np.testing.assert_array_equal(store.read([9, 5]).records.box, far.records.box[[4, 0]])
    assert store.read([]).records.box.shape == (0, 3, 4)  # of neither kind


def test_a_pickled_store_opens_again(finished):
    store = LabelStore.open(finished, check_reads=False)
    store.read([0])
    data = pickle.dumps(store)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again.root_hash == store.root_hash
    np.testing.assert_array_equal(again.read([5]).label.values, store.read([5]).label.values)


def test_a_pickled_store_refuses_another_in_its_place(lab, store):
    data = pickle.dumps(LabelStore.open(store))
    shutil.rmtree(store)
    lab.Job(extras=lab.JITTER, crops={"seed": 1}).run(store)
    with pytest.raises(StoreMismatch, match="replaced"):
        pickle.loads(data)


def test_an_unfinished_store_gives_what_is_there(lab, tmp_path):
    path, job = tmp_path / "s", lab.Job()
    with StoreWriter.open(path, job.config) as writer:
        writer.commit(1, *job.shard(1))
    with pytest.raises(MissingLabel, match="1 of 3 shards"):
        LabelStore.open(path)
    store = LabelStore.open(path, partial=True)
    assert store.root_hash is None
    assert list(store) == job.keys[8:16]
    assert store.rows(job.keys[9:11]).tolist() == [9, 10]
    np.testing.assert_array_equal(store.read([9]).records.box[0], job.content(1).records.box[1])
    for unlabeled in (0, 17):
        with pytest.raises(MissingLabel):
            store.rows([job.keys[unlabeled]])
        with pytest.raises(MissingLabel, match=r"shard [02] of .* is not there, 1 of 3 are"):
            store.read([unlabeled])
    assert pickle.loads(pickle.dumps(store)).config_id == store.config_id


def test_a_folder_that_is_no_store_says_so(tmp_path):
    with pytest.raises(FormatError, match="is not a label store"):
        LabelStore.open(tmp_path)
    with pytest.raises(FormatError, match="does not exist"):
        LabelStore.open(tmp_path / "nowhere")


def test_reading_needs_no_write_access(lab, store):
    before = lab.folder_digest(store)
    (store / "lock").unlink()
    for path in [*store.rglob("*"), store]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def work():
        if os.getuid() == 0:
            for parent in store.parents:  # pytest's folders are closed to others
                if parent.stat().st_mode & 0o055 != 0o055:
                    parent.chmod(0o755)
            os.setuid(65_534)
        with pytest.raises(PermissionError):
            (store / "x").write_text("x")
        assert LabelStore.open(store)[lab.Job().keys[0]].decode().shape == (3, 10)

    _, status = os.waitpid(lab.fork(work), 0)
    store.chmod(0o755)
    assert os.waitstatus_to_exitcode(status) == 0
    assert lab.folder_digest(store) == before


@pytest.mark.parametrize("form", ["plain", "compact"], indirect=True, scope="session")
def test_features_have_no_class_names(lab, form, tmp_path):
    job = lab.Job(codec="logits", value_dtype="f32", form=form, unreadable=False)
    config = {k: v for k, v in job.config.items() if k != "class_names"} | {"outputs": "features"}
    job.config, job.parsed = config, StoreConfig.parse(config, "the job")
    job.run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    assert store.class_names == ()
    values = store.read(np.arange(8)).label.values
    np.testing.assert_array_equal(values, job.content(0).label.values)
    assert verify_store(store.path) == []


@pytest.mark.parametrize("form", ["plain"], indirect=True, scope="session")
def test_reading_needs_nothing_that_windows_lacks_but_open_folders(finished):
    """`fcntl`, forks and some flags of `open` are missing there."""
    script = f"""
import os, sys, torch
sys.modules["fcntl"] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "register_at_fork"):
    delattr(os, name)
from fkd.store import LabelStore
print(LabelStore.open({str(finished)!r}).read([0]).label.ids.shape)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "(1, 3, 2)\n", done.stderr


def test_mapped_shards_hold_no_open_files(lab, tmp_path):
    job = lab.Job(images_per_shard=2, unreadable=False)
    job.run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    before = len(os.listdir("/proc/self/fd"))
    for row in range(20):
        store.read([row])
    assert len(os.listdir("/proc/self/fd")) == before


def test_unlabeled_rows_are_told_without_reading_the_labels(lab, tmp_path):
    job = lab.Job(images_per_shard=2)
    job.run(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    status = store.images(np.arange(store.num_images)).status
    assert 0 < status.sum() < len(status)
    np.testing.assert_array_equal(store.labeled(np.arange(store.num_images)), status == 0)


def test_a_row_damaged_into_seeming_unlabeled_is_found(store):
    whole = LabelStore.open(store)
    row = int(np.flatnonzero(whole.labeled([0, 1, 2]))[0])
    path = store / "shards" / "00000.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    offsets = json.loads(data[8:start])["image.status"]["data_offsets"]
    data[start + offsets[0] + row] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DamagedStore, match="differs from its checksum"):
        LabelStore.open(store).labeled([0, 1, 2])


def test_the_representation_is_one_line(job, finished):
    text = repr(LabelStore.open(finished))
    codec = {"plain": "ms:2 u16", "compact": "ms:2", "map": "top:2 f16"}[job.parsed.form]
    assert f"20 images x 3 crops, {codec}, teacher arithmetic" in text
    assert "\n" not in text


def test_canaries_and_environment_come_back(lab, finished):
    store = LabelStore.open(finished)
    assert [canary.in_manifest() for canary in store.canaries] == lab.CANARIES
    assert store.environment == {"numpy": "any"}
    assert store.class_names[3] == "class 3"
    assert store.config["crops"]["seed"] == 0


def test_unchecked_reading_gives_the_same(finished):
    checked, quick = LabelStore.open(finished), LabelStore.open(finished, check_reads=False)
    ours, theirs = checked.read([1, 9]).label, quick.read([1, 9]).label
    np.testing.assert_array_equal(ours.values, theirs.values)


def test_join_accepts_the_same_images_in_the_order_of_their_keys(lab, finished):
    """So that the position of an image in its source is its row in the store."""
    store, keys = LabelStore.open(finished), lab.Job().keys
    join_images(store, keys, num_bytes=store.images(np.arange(20)).num_bytes)
    for others in (keys[::-1], [*keys[:5], *keys[4:]]):
        with pytest.raises(StoreMismatch, match="not in ascending order, each once"):
            join_images(store, others)


def test_join_names_missing_and_extra_images(lab, finished):
    store, keys = LabelStore.open(finished), lab.Job().keys
    with pytest.raises(StoreMismatch) as caught:
        join_images(store, [*keys[2:], b"new\n.jpg"])
    message = str(caught.value)
    assert "2 labeled but not there (first: n00/caf\u00e9 00000.jpg, " in message
    assert "1 there but not labeled (first: new\\n.jpg)" in message
    assert "\n" not in message


def test_join_recognizes_renamed_images_by_their_content(lab, finished):
    store, keys = LabelStore.open(finished), lab.Job().keys
    facts = store.images([5])
    content = {b"moved.jpg": (int(facts.crc32[0]), int(facts.num_bytes[0])), b"new.jpg": (1, 2)}
    renamed = [*keys[:5], *keys[6:], b"moved.jpg"]
    with pytest.raises(
        StoreMismatch, match=r"1 renamed \(first: .*00015.jpg is now moved.jpg\)"
    ) as e:
        join_images(store, renamed, fingerprint=content.__getitem__)
    assert "labeled but" not in str(e.value)
    with pytest.raises(StoreMismatch, match=r"1 renamed .* 1 there but not labeled"):
        join_images(store, [*renamed, b"new.jpg"], fingerprint=content.__getitem__)


def test_join_recognizes_each_of_several_copies_of_a_file(lab, tmp_path, monkeypatch):
    """A photograph that is there twice, seen from another folder, is renamed twice."""
    job = lab.Job(unreadable=False)
    monkeypatch.setattr(job, "content", lambda number: same(lab.Job.content(job, number)))

    def same(content):
        content.images.crc32[:], content.images.num_bytes[:] = 7, 1000
        return content

    job.run(tmp_path / "store")
    store = LabelStore.open(tmp_path / "store")
    moved = [b"photos/" + key for key in job.keys]
    with pytest.raises(StoreMismatch, match=r"images: 20 renamed \(first: n00/.* 00000") as e:
        join_images(store, moved, fingerprint=lambda key: (7, 1000))
    assert "there" not in str(e.value).partition(";")[0]
    with pytest.raises(StoreMismatch, match=r"images: 20 renamed .*, 1 there but not labeled"):
        join_images(store, [*moved, b"z.jpg"], fingerprint=lambda key: (7, 1000))


def test_join_finds_replaced_files_by_their_length(lab, finished):
    store, keys = LabelStore.open(finished), lab.Job().keys
    lengths = store.images(np.arange(20)).num_bytes.tolist()
    lengths[6] += 1
    lengths[3] = 999  # unreadable when labeled: nothing to compare with
    with pytest.raises(StoreMismatch, match=r"1 replaced by other files \(first: .*00018.jpg\)"):
        join_images(store, keys, num_bytes=lengths)


def test_join_blames_the_store_when_the_store_is_damaged(lab, store):
    keys = lab.Job().keys
    lengths = LabelStore.open(store).images(np.arange(20)).num_bytes
    shard = store / "shards/00000.safetensors"
    data = bytearray(shard.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[header] ^= 1  # image.bytes is the first column
    shard.write_bytes(data)
    with pytest.raises(DamagedStore):
        join_images(LabelStore.open(store), keys, num_bytes=lengths)


def test_a_newer_format_is_not_called_damage(finished, tmp_path):
    """`--repair` must never take a store apart that only needs a newer fkd."""
    store = tmp_path / "store"
    shutil.copytree(finished, store)
    manifest = store / "manifest.json"
    members = json.loads(manifest.read_text()) | {"format_version": 2}
    del members["root_hash"]
    root_hash = canonical.sha256(canonical.encode(members))
    newer = canonical.encode(members | {"root_hash": root_hash}).decode()
    manifest.write_text(newer)
    for check in (LabelStore.open, verify_store, repair_store):
        with pytest.raises(NewerFormat, match="upgrade fkd"):
            check(store)
    assert manifest.read_text() == newer
