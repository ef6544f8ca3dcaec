"""Shards labeled in separate folders, joined: the bytes of one run."""

import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from PIL import Image

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, CropMismatch, DamagedStore, MissingLabel, StoreMismatch
from fkd.labeling.config import parse_shards
from fkd.labeling.merge import merge
from fkd.labeling.run import label
from fkd.store import LabelStore, verify_store
from fkd.store.manifest import ENVIRONMENT


@pytest.fixture(scope="module")
def whole(make_config, tmp_path_factory) -> str:
    """15 images in 4 shards, by one run."""
    out = str(tmp_path_factory.mktemp("whole") / "store")
    label(make_config(out))
    return out


@pytest.fixture(scope="module")
def halves(make_config, tmp_path_factory) -> list[str]:
    """The same in two folders, by two runs."""
    folder = tmp_path_factory.mktemp("halves")
    outs = [str(folder / f"part{number}") for number in (1, 2)]
    for number, out in enumerate(outs, 1):
        result = label(make_config(out, shards=f"{number}/2"))
        assert result.store.root_hash is None
        assert len(result.store.committed) == 2
    return outs


@pytest.fixture
def images(image_folder) -> ImagesConfig:
    return ImagesConfig(root=str(image_folder))


def test_two_folders_become_the_store_of_one_run(halves, whole, images, tmp_path, files_of):
    seen = []
    result = merge(halves, str(tmp_path / "out"), images, lambda *pair: seen.append(pair))
    assert files_of(tmp_path / "out") == files_of(whole)
    assert result.store.root_hash == LabelStore.open(whole).root_hash
    assert result.remarks == []
    assert verify_store(tmp_path / "out") == []
    assert seen[-1][0] == seen[-1][1] > 0


def test_parts_may_overlap_and_come_in_any_order(halves, whole, images, tmp_path, files_of):
    """A part may be a finished store, whose manifest says what made it."""
    for number, parts in enumerate(permutations([*halves, whole])):
        result = merge(parts, str(tmp_path / f"out{number}"), images)
        assert files_of(tmp_path / f"out{number}") == files_of(whole)
        assert result.remarks == []


def test_a_part_whose_run_was_stopped_is_told_of(halves, whole, images, tmp_path, files_of):
    part = Path(shutil.copytree(halves[0], tmp_path / "part"))
    (part / ENVIRONMENT).unlink()
    result = merge([str(part), halves[1]], str(tmp_path / "out"), images)
    assert files_of(tmp_path / "out") == files_of(whole)
    assert [str(part) in remark for remark in result.remarks] == [True]


def test_a_part_may_be_resumed_with_other_libraries(halves, make_config, tmp_path):
    """The last run counts, as for a whole store."""
    part = Path(shutil.copytree(halves[0], tmp_path / "part"))
    noted = (part / ENVIRONMENT).read_bytes()
    (part / ENVIRONMENT).write_bytes(noted.replace(b'"python":"', b'"python":"other '))
    label(make_config(str(part), shards="1/2"))
    assert (part / ENVIRONMENT).read_bytes() == noted


def test_one_folder_filled_part_by_part_ends_as_one_run(make_config, whole, tmp_path, files_of):
    out = str(tmp_path / "store")
    for shards in ("0:1", "3:", "1:3"):
        label(make_config(out, shards=shards))
    assert files_of(out) == files_of(whole)


def test_a_merge_resumes(halves, whole, images, tmp_path, files_of):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        merge(halves, str(tmp_path / "out"), images, stop)
    copied = []
    merge(halves, str(tmp_path / "out"), images, lambda done, total: copied.append(done))
    assert len(copied) == 3
    assert files_of(tmp_path / "out") == files_of(whole)


def test_what_is_missing_is_named(halves, images, tmp_path):
    with pytest.raises(MissingLabel, match=r"2 of 4 shards are in no part, the first: 2, 3; label"):
        merge(halves[:1], str(tmp_path / "out"), images)
    with pytest.raises(ConfigError, match="parts: give the folders"):
        merge([], str(tmp_path / "out"), images)
    assert not (tmp_path / "out").exists()


def test_parts_of_another_store_are_refused(halves, make_config, images, tmp_path):
    other = str(tmp_path / "other")
    label(make_config(other, shards="2/2", num_crops=4))
    with pytest.raises(StoreMismatch, match=r"no part of the same store.*num_crops"):
        merge([halves[0], other], str(tmp_path / "out"), images)


def test_damaged_parts_are_refused(halves, images, tmp_path):
    part = Path(shutil.copytree(halves[0], tmp_path / "part"))
    shard = part / "shards" / "00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedStore, match=r"00001\.safetensors differs from its commit"):
        merge([str(part), halves[1]], str(tmp_path / "out"), images)


def test_other_images_are_refused(halves, make_images, tmp_path):
    root = make_images(tmp_path / "images")
    first = sorted(path for path in root.rglob("*") if path.is_file())[0]
    pixels = Image.new("RGB", (30, 30))
    moved = first.with_name(f"x{first.name}")
    first.rename(moved)
    with pytest.raises(StoreMismatch, match=r"does not hold the images.*same images.subset") as e:
        merge(halves, str(tmp_path / "out"), ImagesConfig(root=str(root)))
    assert "1 labeled but not there (first: ant/0.png), 1 there but not labeled" in str(e.value)
    assert "(first: ant/x0.png)" in str(e.value)
    with pytest.raises(StoreMismatch, match=r"15 labeled but not there \(first: ant/0.png, ant/"):
        merge(halves, str(tmp_path / "out"), ImagesConfig(root=str(root / "ant")))
    moved.rename(first)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        pixels.save(file)
    with pytest.raises(CropMismatch):
        merge(halves, str(tmp_path / "out"), ImagesConfig(root=str(root)))


def test_parts_of_other_hardware_are_told_of(halves, images, tmp_path):
    part = Path(shutil.copytree(halves[1], tmp_path / "part"))
    noted = part / ENVIRONMENT
    noted.write_bytes(noted.read_bytes().replace(b'"python":"', b'"python":"other '))
    result = merge([halves[0], str(part)], str(tmp_path / "out"), images)
    assert [str(part) in remark for remark in result.remarks] == [True]


@pytest.mark.parametrize("text", ["", "5", "1:2:3", "0/2", "3/2", "a:b", "-1:", "1/0", "1.5/2"])
def test_shards_that_mean_nothing(text, make_config, tmp_path):
    with pytest.raises(ConfigError, match="is neither FIRST:END"):
        make_config(str(tmp_path / "out"), shards=text)


@pytest.mark.parametrize("parts", range(1, 9))
@pytest.mark.parametrize("count", [1, 4, 7, 1024])
def test_parts_are_all_of_it_once(parts, count):
    ranges = [parse_shards(f"{part}/{parts}")(count) for part in range(1, parts + 1)]
    assert [number for each in ranges for number in each] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_the_setting_is_no_part_of_the_identity(make_config, halves, whole):
    configs = {LabelStore.open(path, partial=True).config_id for path in (*halves, whole)}
    assert len(configs) == 1
    assert replace(make_config(halves[0]), shards="1/2").shards == "1/2"
