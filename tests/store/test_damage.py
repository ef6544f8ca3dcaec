"""Every single-bit change and every truncation is found, by `verify_store` and by plain reading."""

import os
import random
import shutil

import numpy as np
import pytest

from fkd.errors import DamagedStore, FormatError, StoreError
from fkd.store import LabelStore, StoreWriter, repair_store, verify_store


def reader_of(path, name):
    """A function that does what training does with a store, as if it had just been opened."""

    def open_and_read():
        store = LabelStore.open(path)
        store.read(np.arange(store.num_images))

    def map_and_read():
        opened._mapped.clear()
        opened.read(np.arange(opened.num_images))

    opened = LabelStore.open(path)
    # To open a store touches the small files only, so for a shard it need not be done each time.
    return map_and_read if name == SHARD else open_and_read


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def overwrite(file, data: bytes) -> None:
    """Change the bytes and keep the length: what a disk or a network does to a file."""
    with open(file, "r+b") as stream:
        stream.write(data)


@pytest.fixture
def tiny_form():
    return "plain"


@pytest.fixture
def tiny(lab, tiny_form, tmp_path):
    job = lab.Job(
        num_images=2,
        num_crops=1,
        num_classes=2,
        codec="ms:1",
        unreadable=False,
        teachers=[],
        form=tiny_form,
    )
    job.run(tmp_path / "tiny")
    return tmp_path / "tiny"


SHARD = "shards/00000.safetensors"
FILES = ["manifest.json", "config.json", "commits/00000.json", SHARD]
# The small files of all forms are alike.
FILES_OF_FORMS = [("plain", name) for name in FILES]
FILES_OF_FORMS += [(form, SHARD) for form in ("compact", "recomputed", "map")]


@pytest.mark.drill("G4", "single-bit flips of small stores, read", failing="silent")
@pytest.mark.parametrize(("tiny_form", "name"), FILES_OF_FORMS)
def test_every_flipped_bit_is_found_by_reading(tiny, name, drill):
    data, read = (tiny / name).read_bytes(), reader_of(tiny, name)
    for bit in range(8 * len(data)):
        overwrite(tiny / name, flipped(data, bit))
        with pytest.raises(StoreError):
            read()
    overwrite(tiny / name, data)
    read()
    drill.tried(8 * len(data))


@pytest.mark.drill("G4", "single-bit flips of small stores, verified", failing="silent")
@pytest.mark.parametrize(("tiny_form", "name"), FILES_OF_FORMS)
def test_flipped_bits_are_found_by_verify(tiny, name, drill):
    data = (tiny / name).read_bytes()
    bits = range(0, 8 * len(data), 7 if drill.scale is None else 1)
    drill.tried(len(bits))
    for bit in bits:
        overwrite(tiny / name, flipped(data, bit))
        assert name in {problem.file for problem in verify_store(tiny)}
    overwrite(tiny / name, data)
    assert verify_store(tiny) == []


@pytest.mark.drill("G4", "single-bit flips of shards, read", failing="silent")
def test_a_flipped_bit_in_a_larger_store_is_found_in_its_own_record(lab, store, drill):
    """Damage to one image leaves the others readable."""
    draw, labels = random.Random(0), LabelStore.open(store)
    labels.read([0, 8, 16])
    flips = drill.times(600, goal=20_000)
    drill.tried(flips)
    for _ in range(flips):
        number = draw.randrange(3)
        file = store / f"shards/{number:05d}.safetensors"
        data = file.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        overwrite(file, flipped(data, draw.randrange(8 * header, 8 * len(data))))
        first, stop = number * 8, min(number * 8 + 8, 20)
        damaged = 0
        for row in range(first, stop):
            try:
                labels.images([row])
            except DamagedStore as error:
                damaged += 1
                message = str(error)
            else:
                continue
            assert f"{number:05d}.safetensors" in message
            assert f"image {row} " in message
        assert 1 <= damaged <= 2  # an offset of the keys belongs to two rows
        overwrite(file, data)
    labels.images(np.arange(20))


@pytest.mark.drill("G5", "every length of a truncated file", failing="silent")
@pytest.mark.parametrize(("tiny_form", "name"), FILES_OF_FORMS)
def test_every_truncation_is_found(tiny, name, drill):
    data, read = (tiny / name).read_bytes(), reader_of(tiny, name)
    for length in range(len(data)):
        (tiny / name).write_bytes(data[:length])
        with pytest.raises(StoreError):
            read()
        if length % 16 == 0:
            assert name in {problem.file for problem in verify_store(tiny)}
    drill.tried(len(data))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["appended", "zeroed", "empty", "missing"])
def test_whole_files_gone_wrong_are_found(tiny, name, change):
    data, read = (tiny / name).read_bytes(), reader_of(tiny, name)
    (tiny / name).unlink()
    changed = {"appended": data + b"\0", "zeroed": bytes(len(data)), "empty": b""}
    if change != "missing":
        (tiny / name).write_bytes(changed[change])
    with pytest.raises(StoreError):
        read()
    assert name in {problem.file for problem in verify_store(tiny)}


def test_swapped_shards_are_found(lab, tmp_path):
    path = tmp_path / "s"
    lab.Job(num_images=16, unreadable=False).run(path)
    first, second = (path / f"shards/0000{n}.safetensors" for n in (0, 1))
    a, b = first.read_bytes(), second.read_bytes()
    assert len(a) == len(b)
    overwrite(first, b)
    overwrite(second, a)
    with pytest.raises(DamagedStore):
        LabelStore.open(path).read([0])
    assert len(verify_store(path)) == 2


def test_a_shard_of_another_store_is_found_even_with_its_commit(lab, store, tmp_path):
    lab.Job(extras=lab.JITTER, crops={"seed": 1, "scale": [0.08, 1.0]}).run(tmp_path / "other")
    for name in ("shards/00001.safetensors", "commits/00001.json"):
        shutil.copy(tmp_path / "other" / name, store / name)
    with pytest.raises(StoreError):
        LabelStore.open(store).read([8])
    assert {p.file for p in verify_store(store)} == {
        "shards/00001.safetensors",
        "commits/00001.json",
    }


def test_a_damaged_key_is_not_taken_for_a_missing_image(lab, store):
    file = store / "shards/00001.safetensors"
    data = file.read_bytes()
    last = data.rfind(b".jpg") + 3  # of the last key
    overwrite(file, data[:last] + b"G" + data[last + 1 :])
    with pytest.raises(DamagedStore, match="image 15 "):
        LabelStore.open(store).rows([lab.Job().keys[15]])


def test_damage_after_opening_is_found(store):
    labels = LabelStore.open(store)
    labels.read([0])
    file = store / "shards/00000.safetensors"
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    overwrite(file, data[:header] + bytes(len(data) - header))
    with pytest.raises(DamagedStore):
        labels.read([0])


def test_zeroed_blocks_are_found(lab, tmp_path):
    path = tmp_path / "s"
    lab.Job(num_images=200, images_per_shard=200, num_crops=20, unreadable=False).run(path)
    file = path / "shards/00000.safetensors"
    data = file.read_bytes()
    for start in range(0, len(data), 512):
        overwrite(file, data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :])
        assert [p.file for p in verify_store(path)] == ["shards/00000.safetensors"]


def test_files_that_do_not_belong_are_named(store):
    (store / "notes\x1b[2J.txt").write_text("x")
    (store / "shards/00003.safetensors").write_text("x")
    (store / "shards/.tmp.00001.safetensors.7").write_text("x")
    (store / "lock").write_text("x")
    found = {p.file: p.message for p in verify_store(store)}
    assert set(found) == {
        "notes\\x1b[2J.txt",
        "shards/00003.safetensors",
        "shards/.tmp.00001.safetensors.7",
        "lock",
    }


def test_verify_of_an_unfinished_store(lab, tmp_path):
    path, job = tmp_path / "s", lab.Job()
    with StoreWriter.open(path, job.config) as writer:
        writer.commit(0, *job.shard(0))
    (path / "shards/.tmp.00001.safetensors.7").write_text("x")
    (path / "shards/00002.safetensors").write_text("not committed")
    assert verify_store(path, partial=True) == []
    found = {p.file for p in verify_store(path)}
    assert found == {"manifest.json", "shards/.tmp.00001.safetensors.7"}


def test_verify_tells_how_far_it_is(store):
    seen = []
    verify_store(store, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_verify_of_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(FormatError, match="not a label store"):
        verify_store(tmp_path)
    with pytest.raises(FormatError, match="does not exist"):
        repair_store(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["shards/00001.safetensors", "commits/00001.json"])
@pytest.mark.parametrize("change", ["flipped", "missing"])
def test_repair_moves_a_damaged_shard_and_labeling_makes_it_again(lab, job, store, name, change):
    before = lab.folder_digest(store)
    data = flipped((store / name).read_bytes(), 1501)
    (store / name).unlink()
    if change == "flipped":
        (store / name).write_bytes(data)
    moved = repair_store(store)
    present = {"00001.safetensors", "00001.json", "manifest.json"}
    if change == "missing":
        present.remove(name.rpartition("/")[2])
    assert set(moved) == {f"quarantine/{leaf}" for leaf in present}
    assert verify_store(store, partial=True) == []
    job.run(store)
    if change == "flipped":
        assert (store / "quarantine" / name.rpartition("/")[2]).read_bytes() == data
    assert verify_store(store) == []
    shutil.rmtree(store / "quarantine")
    assert lab.folder_digest(store) == before


def test_a_damaged_config_is_written_again_by_the_run_that_made_it(lab, job, store):
    before = lab.folder_digest(store)
    overwrite(store / "config.json", b"[")
    assert repair_store(store) == ["quarantine/config.json"]
    with pytest.raises(FormatError, match="another config"):
        lab.Job(extras=lab.JITTER, num_crops=4).run(store)
    assert not (store / "config.json").exists()
    job.run(store)
    shutil.rmtree(store / "quarantine")
    assert lab.folder_digest(store) == before


def test_repair_makes_a_damaged_manifest_again(lab, job, store):
    before = lab.folder_digest(store)
    overwrite(store / "manifest.json", b"[")
    assert repair_store(store) == ["quarantine/manifest.json"]
    job.run(store)
    shutil.rmtree(store / "quarantine")
    assert lab.folder_digest(store) == before


def test_both_small_files_are_made_again(lab, job, store):
    before = lab.folder_digest(store)
    overwrite(store / "config.json", b"[")
    overwrite(store / "manifest.json", b"[")
    assert set(repair_store(store)) == {"quarantine/config.json", "quarantine/manifest.json"}
    job.run(store)
    shutil.rmtree(store / "quarantine")
    assert lab.folder_digest(store) == before


def test_repair_of_a_sound_store_does_nothing(lab, store):
    before = lab.folder_digest(store)
    assert repair_store(store) == []
    assert lab.folder_digest(store) == before
    assert "quarantine" not in os.listdir(store)


def test_repairing_twice_overwrites_nothing(job, store):
    for round_ in range(2):
        overwrite(store / "manifest.json", b"[%d" % round_)
        repair_store(store)
        job.run(store)
    assert (store / "quarantine/manifest.json").read_bytes()[:2] == b"[0"
    assert (store / "quarantine/manifest.json.1").read_bytes()[:2] == b"[1"
