"""Stores of which only some shards are there: fetched ones with a manifest, and labeled parts."""

import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fkd.cli import main
from fkd.errors import DamagedStore, FormatError, MissingLabel, StoreMismatch
from fkd.store import NOT_HERE, LabelStore, StoreWriter, convert_store, repair_store, verify_store
from fkd.store.presence import UNKNOWN
from fkd.store.provenance import Canary


@pytest.fixture(scope="module", params=["plain", "compact", "map"])
def whole(request, image_source, make_store, make_maps, tmp_path_factory) -> LabelStore:
    """15 images in shards of 4."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "map":
        return make_maps(folder / "map", image_source)
    store = make_store(folder / "plain", image_source)
    return store if request.param == "plain" else convert_store(store.path, folder / "c").after


def cut(store: LabelStore, out: Path, numbers, *, all_commits=False, manifest=True) -> Path:
    """A copy with these shards."""
    shutil.copytree(store.path, out)
    for number in set(range(4)) - set(numbers):
        (out / f"shards/{number:05d}.safetensors").unlink()
        if not all_commits:
            (out / f"commits/{number:05d}.json").unlink()
    if not manifest:
        (out / "manifest.json").unlink()
    return out


@pytest.mark.parametrize("all_commits", [False, True])
def test_what_is_there_is_as_in_the_whole_store(whole, all_commits, tmp_path):
    path = cut(whole, tmp_path / "part", [1, 3], all_commits=all_commits)
    with pytest.raises(MissingLabel) as caught:
        LabelStore.open(path)
    said = str(caught.value)
    assert "has 2 of its 4 shards, the first that is not there is shards/00000.safetensors" in said
    assert "--partial of train" in said
    assert "partial=True" in said
    part = LabelStore.open(path, partial=True)
    rows = [4, 5, 6, 7, 12, 13, 14]
    keys = whole.keys(rows)
    assert (part.is_partial, part.num_images, len(part), part.num_images_in_all) == (True, 7, 7, 15)
    assert part.present_rows.tolist() == rows
    assert list(part) == part.keys() == keys
    assert part.keys(slice(2, 5)) == keys[2:5]
    assert part.rows(keys[::-1]).tolist() == rows[::-1]
    assert part.root_hash == whole.root_hash
    assert "7 images in 2 of 4 shards" in repr(part)
    assert part.num_bytes < whole.num_bytes
    ours, theirs = part.read(rows), whole.read(rows)
    np.testing.assert_array_equal(ours.label.ids, theirs.label.ids)
    np.testing.assert_array_equal(ours.label.values, theirs.label.values)
    np.testing.assert_array_equal(ours.records.box, theirs.records.box)
    for key in part:
        assert key in part
    assert verify_store(path, partial=True) == []
    missing = {problem.file for problem in verify_store(path)}
    assert {"shards/00000.safetensors", "shards/00002.safetensors"} <= missing


def test_what_is_not_there_is_said_so(whole, tmp_path):
    part = LabelStore.open(cut(whole, tmp_path / "part", [1, 3]), partial=True)
    keys = whole.keys()
    assert keys[0] not in part
    assert b"bee/x.png" not in part
    for use in (part.read, part.keys, part.images, part.labeled):
        with pytest.raises(MissingLabel, match=r"shard 2 of .* is not there, 2 of 4 are"):
            use([5, 8])
        with pytest.raises(IndexError, match=r"\[0, 15\)"):
            use([15])
    with pytest.raises(MissingLabel, match=r"2 of 3 images are not in the 2 of 4 shards"):
        part.rows([keys[0], keys[5], keys[9]])
    with pytest.raises(MissingLabel, match="has no label for 1 of 1 images"):
        part.rows([keys[5] + b"x"])


def test_keys_are_told_apart_by_the_shard_where_they_would_be(whole, tmp_path):
    """A key in the place of a missing shard may be labeled; one in that of another is not."""
    keys = whole.keys()
    finished = LabelStore.open(cut(whole, tmp_path / "a", [1, 3]), partial=True)
    labeled_part = cut(whole, tmp_path / "b", [1, 3], manifest=False)
    unfinished = LabelStore.open(labeled_part, partial=True)
    asked = [b"a", keys[0], keys[4], keys[7] + b"x", keys[8], keys[12] + b"x", b"zebra.png"]
    assert finished.find(asked).tolist() == [
        UNKNOWN,
        NOT_HERE,
        4,
        UNKNOWN,
        NOT_HERE,
        UNKNOWN,
        UNKNOWN,
    ]
    # Where shard 0 begins, and where shard 2 does, no file says now.
    assert unfinished.find(asked).tolist() == [
        NOT_HERE,
        NOT_HERE,
        4,
        NOT_HERE,
        NOT_HERE,
        UNKNOWN,
        UNKNOWN,
    ]
    assert unfinished.present_rows.tolist() == finished.present_rows.tolist()
    assert unfinished.root_hash is None
    assert unfinished.commits_hash == finished.commits_hash != whole.commits_hash
    begins = LabelStore.open(cut(whole, tmp_path / "c", [0], manifest=False), partial=True)
    assert begins.find([b"a", keys[3], keys[3] + b"x"]).tolist() == [UNKNOWN, 3, NOT_HERE]


def test_other_processes_open_the_same_shards(whole, tmp_path):
    path = cut(whole, tmp_path / "part", [1, 3])
    data = pickle.dumps(LabelStore.open(path, partial=True))
    # Another shard arrives while a run has the store open.
    shutil.copy(whole.path / "shards/00000.safetensors", path / "shards")
    shutil.copy(whole.path / "commits/00000.json", path / "commits")
    assert pickle.loads(data).present_rows.tolist() == [4, 5, 6, 7, 12, 13, 14]
    (path / "shards/00001.safetensors").unlink()
    with pytest.raises(MissingLabel, match="has lost 1 shards"):
        pickle.loads(data)
    shutil.rmtree(path)
    with pytest.raises(FormatError):
        pickle.loads(data)


def test_canaries_are_those_of_images_that_are_there(image_source, make_store, tmp_path):
    store = make_store(tmp_path / "store", image_source)
    (tmp_path / "store" / "manifest.json").unlink()
    canaries = [Canary(row, 0, "0" * 64, bytes(192)) for row in (1, 5, 9, 13)]
    with StoreWriter.open(store.path, store.config) as writer:
        writer.finish({}, [canary.in_manifest() for canary in canaries])
    store = LabelStore.open(store.path)
    part = LabelStore.open(cut(store, tmp_path / "part", [1, 2]), partial=True)
    assert [canary.row for canary in store.canaries] == [1, 5, 9, 13]
    assert [canary.row for canary in part.canaries] == [5, 9]


def test_no_shard_at_all_is_no_store(whole, tmp_path):
    with pytest.raises(MissingLabel, match="has 0 of its 4 shards"):
        LabelStore.open(cut(whole, tmp_path / "part", []), partial=True)


def test_damage_of_a_shard_that_is_there_is_found_and_the_manifest_stays(whole, tmp_path, capsys):
    path = cut(whole, tmp_path / "part", [1, 3])
    shard = path / "shards/00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    (problem,) = verify_store(path, partial=True)
    assert problem.file == "shards/00003.safetensors"
    moved = repair_store(path, partial=True)
    assert {name.rpartition("/")[2] for name in moved} == {"00003.safetensors", "00003.json"}
    part = LabelStore.open(path, partial=True)
    assert part.present_rows.tolist() == [4, 5, 6, 7]
    assert verify_store(path, partial=True) == []


def test_a_lost_commit_of_a_shard_that_is_there_is_damage(whole, tmp_path):
    path = cut(whole, tmp_path / "part", [1, 3])
    (path / "commits/00001.json").unlink()
    with pytest.raises(DamagedStore, match=r"00001\.json is missing"):
        LabelStore.open(path, partial=True).read([4])
    assert {problem.file for problem in verify_store(path, partial=True)} == {"commits/00001.json"}


def test_a_partial_store_is_neither_converted_nor_labeled_further(whole, tmp_path):
    path = cut(whole, tmp_path / "part", [1, 3])
    with pytest.raises(MissingLabel, match="converted as a whole"):
        convert_store(path, tmp_path / "out")
    with pytest.raises(MissingLabel, match="has 2 of its 4 shards; get the others"):
        StoreWriter.open(path, whole.config)
    with pytest.raises(StoreMismatch, match="other settings"):
        StoreWriter.open(path, whole.config | {"images_per_shard": 5})


def test_verbs_speak_of_what_is_there(whole, image_folder, tmp_path, capsys):
    path = cut(whole, tmp_path / "part", [1, 3])

    def said(*words: str) -> str:
        with suppress(SystemExit):
            main(list(words))
        printed = capsys.readouterr()
        return printed.out + printed.err

    assert "--partial" in said("verify", str(path))
    assert "2 shards with 8 images are not" in said("verify", str(path), "--partial")
    checked = said("verify", str(path), "--partial", f"--images.root={image_folder}")
    assert "7 of 15 images" in checked
    assert "images    7 files are those that were labeled" in checked
    assert "none of the canaries" in checked
    inspected = said("inspect", str(path), "--partial")
    assert "2 of 4" in inspected
    assert "7 of 15" in inspected
    page = tmp_path / "page.html"
    said("view", str(path), "--partial", f"--images.root={image_folder}", f"--out={page}")
    assert page.read_text("utf-8").count("<img") >= 7
