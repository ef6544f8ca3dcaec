import os
import stat
from dataclasses import replace

import numpy as np
import pytest

from fkd.crops.records import CropRecords
from fkd.errors import (
    DamagedStore,
    FormatError,
    MissingLabel,
    StoreError,
    StoreLocked,
    StoreMismatch,
)
from fkd.store import LabelStore, StoreWriter, verify_store


def test_a_second_run_of_a_finished_store_changes_nothing(lab, job, store):
    before = lab.folder_digest(store)
    with StoreWriter.open(store, job.config) as writer:
        assert writer.pending() == []
        root_hash = writer.finish({"other": "environment"})
    assert lab.folder_digest(store) == before
    assert root_hash == LabelStore.open(store).root_hash


def test_an_interrupted_run_ends_in_the_same_bytes(lab, job, finished, tmp_path):
    for number in (2, 0):  # any order
        with StoreWriter.open(tmp_path / "s", job.config) as writer:
            writer.commit(number, *job.shard(number))
    job.run(tmp_path / "s")
    assert lab.folder_digest(tmp_path / "s") == lab.folder_digest(finished)


def test_shards_are_shared_among_processes_without_overlap(lab, tmp_path):
    with StoreWriter.open(tmp_path / "s", lab.Job(num_images=50).config) as writer:
        assert writer.num_shards == 7
        assert [writer.shard_range(n) for n in (0, 6)] == [(0, 8), (48, 50)]
        assert [writer.pending(rank, 3) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


def test_what_another_process_committed_is_no_longer_pending(lab, tmp_path):
    job = lab.Job()
    with StoreWriter.open(tmp_path / "s", job.config, world_size=2) as first:
        with StoreWriter.open(tmp_path / "s", job.config, rank=1, world_size=2) as second:
            second.commit(2, *job.shard(2))
        assert first.pending(0, 1) == [0, 1]


def test_two_processes_given_the_same_shard_by_mistake_agree(lab, tmp_path):
    job = lab.Job()
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        writer.commit(0, *job.shard(0))
        writer.commit(0, *job.shard(0))
    assert sorted(os.listdir(tmp_path / "s/shards")) == ["00000.safetensors"]


def test_two_processes_that_compute_different_bytes_are_caught(lab, tmp_path):
    job = lab.Job()
    other = lab.Job(unreadable=False)
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        writer.commit(0, *job.shard(0))
        with pytest.raises(DamagedStore, match="computed different content"):
            writer.commit(0, *other.shard(0))


def test_a_longer_file_in_the_way_is_damage_and_not_a_limit(lab, tmp_path):
    job, commit = lab.Job(), tmp_path / "s/commits/00000.json"
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        writer.commit(0, *job.shard(0))
        commit.write_bytes(commit.read_bytes() + b" ")
        with pytest.raises(DamagedStore, match=r"00000\.json exists with other bytes"):
            writer.commit(0, *job.shard(0))


def test_finishing_too_early_says_how_much_is_missing(lab, tmp_path):
    job = lab.Job()
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        writer.commit(0, *job.shard(0))
        with pytest.raises(MissingLabel, match="1 of 3 shards"):
            writer.finish()


def test_shards_with_keys_of_other_images_are_not_finished(lab, tmp_path):
    job = lab.Job(keys_sha256="0" * 64)
    with pytest.raises(DamagedStore, match="keys"):
        job.run(tmp_path / "s")


CHANGES = {
    "num_images": 19,
    "num_crops": 4,
    "num_classes": 11,
    "codec": "mr:2",
    "value_dtype": "f16",
    "extras": {"gray": {"dtype": "u1", "shape": []}},
    "images_per_shard": 9,
    "teachers.0.weights_sha256": "1" * 64,
    "teachers.0.temperature": 1.5,
    "crops.seed": 1,
    "crops.scale.0": 0.1,
}


@pytest.mark.parametrize(("name", "value"), CHANGES.items(), ids=CHANGES)
def test_other_settings_are_refused_and_named(lab, tmp_path, name, value):
    job = lab.Job()
    StoreWriter.open(tmp_path / "s", job.config).close()
    before = lab.folder_digest(tmp_path / "s")
    options, where = {}, name.split(".")
    if len(where) == 1:
        options[name] = value
    elif where[0] == "teachers":
        options["teachers"] = [job.config["teachers"][0] | {where[2]: value}]
    else:
        crops = dict(job.config["crops"])
        crops[where[1]] = value if len(where) == 2 else [value, 1.0]
        options["crops"] = crops
    with pytest.raises(StoreMismatch) as caught:
        StoreWriter.open(tmp_path / "s", lab.Job(**options).config)
    if name != "extras":
        assert f"{name}: " in str(caught.value)
    else:
        assert "extras.gray: absent in the store" in str(caught.value)
    assert lab.folder_digest(tmp_path / "s") == before


def test_every_differing_field_is_named_at_once(lab, tmp_path):
    StoreWriter.open(tmp_path / "s", lab.Job().config).close()
    other = lab.Job(num_crops=4, codec="full", crops={"seed": 3, "scale": [0.08, 1.0]})
    with pytest.raises(StoreMismatch) as caught:
        StoreWriter.open(tmp_path / "s", other.config)
    for part in ("num_crops: 3", 'codec: "ms:2"', "crops.seed: 0"):
        assert part in str(caught.value)


def test_a_folder_with_other_files_is_left_alone(lab, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"holiday\.jpg"):
        StoreWriter.open(tmp_path, lab.Job().config)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


def test_somebody_elses_config_json_is_left_alone(lab, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / ".tmp.theirs").write_text("x")
    with pytest.raises(FormatError, match=r"holds other files \('config\.json'\)"):
        StoreWriter.open(tmp_path, lab.Job().config)
    assert sorted(os.listdir(tmp_path)) == [".tmp.theirs", "config.json"]


def test_a_link_to_nowhere_in_place_of_the_folder_is_no_other_process(lab, tmp_path):
    (tmp_path / "store").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="a link to nowhere is in the way") as caught:
        StoreWriter.open(tmp_path / "store", lab.Job().config)
    assert not isinstance(caught.value, StoreLocked)


def test_a_file_in_place_of_the_folder_is_refused(lab, tmp_path):
    (tmp_path / "s").write_text("x")
    with pytest.raises(FormatError, match="is a file"):
        StoreWriter.open(tmp_path / "s", lab.Job().config)


def test_what_a_dead_process_left_is_removed_and_nothing_else(lab, tmp_path):
    path, job = tmp_path / "s", lab.Job()
    with StoreWriter.open(path, job.config) as writer:
        writer.commit(0, *job.shard(0))
        writer.commit(1, *job.shard(1))
    (path / "commits/00001.json").unlink()
    (path / "shards/.tmp.00002.safetensors.77").write_bytes(b"half")
    (path / "commits/.tmp.00002.json.77").write_bytes(b"half")
    (path / ".tmp.manifest.json.77").write_bytes(b"half")
    (path / "shards/notes.txt").write_bytes(b"a user's")
    with StoreWriter.open(path, job.config) as writer:
        assert writer.pending() == [1, 2]
    left = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    assert left == [
        "commits/00000.json",
        "config.json",
        "lock",
        "shards/00000.safetensors",
        "shards/notes.txt",
    ]


@pytest.mark.parametrize("damage", ["missing", "short", "header"])
def test_a_commit_without_its_shard_is_reported_with_the_way_out(lab, tmp_path, damage):
    path, job = tmp_path / "s", lab.Job()
    with StoreWriter.open(path, job.config) as writer:
        writer.commit(1, *job.shard(1))
    shard = path / "shards/00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(data if damage == "header" else data[:-1])
    with pytest.raises(DamagedStore, match=f"fkd verify {path} --repair"):
        StoreWriter.open(path, job.config)


def test_finishing_reads_every_shard_once_more(lab, tmp_path):
    path, job = tmp_path / "s", lab.Job()
    with StoreWriter.open(path, job.config) as writer:
        for number in writer.pending():
            writer.commit(number, *job.shard(number))
        shard = path / "shards/00001.safetensors"
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        with pytest.raises(DamagedStore, match=r"00001\.safetensors differs"):
            writer.finish()
    assert not (path / "manifest.json").exists()


def test_files_honor_the_umask(lab, tmp_path):
    before = os.umask(0o022)
    try:
        lab.Job().run(tmp_path / "s")
    finally:
        os.umask(before)
    for file in (tmp_path / "s").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o755 if file.is_dir() else 0o644)


def test_unreadable_images_keep_their_row_and_store_zeros(lab, tmp_path):
    job = lab.Job()
    keys, content = job.shard(0)
    unreadable = content.images.status[:, None, None] == 1
    noisy = with_values(content, lambda values: np.where(unreadable, np.nan, values))
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        writer.commit(0, keys, noisy)
    facts = LabelStore.open(tmp_path / "s", partial=True).images(np.arange(8))
    assert facts.status.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert (facts.crc32[3], facts.num_bytes[3], facts.size[3].tolist()) == (0, 0, [0, 0])


def with_ids(crops, change):
    return replace(crops, label=replace(crops.label, ids=change(crops.label.ids)))


def with_values(crops, change):
    return replace(crops, label=replace(crops.label, values=change(crops.label.values)))


def outside(records):
    return CropRecords(records.box + np.array([0, 0, 100, 0]), records.flip, records.extra)


WRONG = {
    "a box outside": lambda c: replace(c, records=outside(c.records)),
    "a negative box": lambda c: replace(c, records=CropRecords(c.records.box - 21, c.records.flip)),
    "an empty box": lambda c: replace(
        c, records=CropRecords(c.records.box * [1, 1, 0, 1], c.records.flip)
    ),
    "a class that is not": lambda c: with_ids(c, lambda ids: ids + 1),
    "a negative class": lambda c: with_ids(c, lambda ids: ids - 1),
    "NaN": lambda c: with_values(c, lambda values: values * np.nan),
    "a negative probability": lambda c: with_values(c, lambda values: -values),
    "no values": lambda c: with_values(c, lambda values: None),
    "too few ids": lambda c: with_ids(c, lambda ids: ids[..., :1]),
    "one crop less": lambda c: replace(c, records=c.records[:, 1:]),
    "an extra column": lambda c: replace(
        c, records=CropRecords(c.records.box, c.records.flip, {"gray": c.records.flip})
    ),
    "an unknown status": lambda c: replace(c, images=replace(c.images, status=c.images.status + 2)),
}
WRONG_KEYS = {
    "keys out of order": lambda keys: keys[::-1],
    "a key twice": lambda keys: [keys[0], *keys[:-1]],
    "an empty key": lambda keys: [b"", *keys[1:]],
    "one image less": lambda keys: keys[1:],
}


@pytest.mark.parametrize("change", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_keys_that_no_shard_may_hold_are_not_written(lab, tmp_path, change):
    keys, content = lab.Job().shard(0)
    with StoreWriter.open(tmp_path / "s", lab.Job().config) as writer:
        with pytest.raises(ValueError, match="shard"):
            writer.commit(0, change(keys), content)
        assert writer.pending() == [0, 1, 2]


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_content_that_no_label_may_hold_is_not_written(lab, tmp_path, change):
    job = lab.Job()
    with StoreWriter.open(tmp_path / "s", job.config) as writer:
        keys, content = job.shard(0)
        with pytest.raises(ValueError, match="shard"):
            writer.commit(0, keys, change(content))
        assert writer.pending() == [0, 1, 2]
    assert os.listdir(tmp_path / "s/shards") == []


COMPACT = {"form": "compact", "geometry": "stored", "levels": 360}
MAP = {"form": "map", "grid": [1, 3], "codec": "top:2", "value_dtype": "f16", "extras": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_crops": 0}, "num_crops is 0"),
        ({"num_images": "20"}, "num_images"),
        ({"class_names": ["one"]}, "10 classes"),
        ({"codec": "ms:11"}, "keeps 11 classes"),
        ({"codec": "zip"}, "zip"),
        ({"codec": "hard"}, "value_dtype, which means nothing for hard labels"),
        ({"codec": "logits"}, "u16 holds probabilities"),
        ({"value_dtype": "f64"}, "f64"),
        ({"value_dtype": "i8"}, "i8 is for codec logits"),
        ({"value_dtype": "i8", "codec": "logits:3"}, "i8 is for codec logits"),
        (MAP | {"value_dtype": "i8"}, "i8 is for codec logits"),
        ({"levels": 360}, "levels, which means nothing"),
        ({"geometry": "stored"}, "geometry, which means nothing in a plain store"),
        ({"grid": [1, 3]}, "grid, which means nothing in a plain store"),
        ({"outputs": "pixels"}, "outputs"),
        ({"outputs": "features"}, "class_names, which means nothing for features"),
        ({"origin": "found"}, "origin"),
        ({"extras": {"Gray": {"dtype": "u1", "shape": []}}}, "Gray"),
        ({"extras": {"gray": {"dtype": ">u2", "shape": []}}}, ">u2"),
        ({"extras": {"gray": {"dtype": "u1", "shape": [0]}}}, "shape"),
        ({"keys_sha256": "abc"}, "keys_sha256"),
        ({"format_version": 2}, "upgrade fkd"),
        ({"form": "zipped"}, 'form is "zipped", not one of plain, compact, map'),
        ({"form": "map"}, "do not agree"),
        (COMPACT, "value_dtype, which means nothing"),
        (COMPACT | {"codec": "logits:3"}, "have no compact form"),
        (COMPACT | {"value_dtype": None, "geometry": "drawn"}, "not one of stored, recomputed"),
        ({"codec": "top:2", "value_dtype": "f16"}, "do not agree"),
        (MAP | {"geometry": "stored"}, "geometry, which means nothing in a map store"),
        (MAP | {"grid": [3]}, "two whole numbers"),
        (MAP | {"grid": [0, 3]}, "two whole numbers"),
        (MAP | {"grid": [2, 2]}, "2 x 2 cells has not 3 crops"),
        (MAP | {"extras": {}}, "extras, which means nothing in label maps"),
        (MAP | {"value_dtype": "u16"}, "u16 holds probabilities"),
        ({"crops": {"seed": float("nan")}}, "JSON"),
        ({"crops": {"seed": {1, 2}}}, "JSON"),
    ],
)
def test_a_config_that_cannot_work_names_the_field(lab, tmp_path, change, message):
    config = {k: v for k, v in (lab.Job().config | change).items() if v is not None}
    with pytest.raises(FormatError, match=message):
        StoreWriter.open(tmp_path / "s", config)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("value_dtype", ["f16", "f32", "i8"])
def test_values_that_are_no_numbers_are_not_written(lab, tmp_path, value_dtype, value):
    job = lab.Job(codec="logits", value_dtype=value_dtype)
    keys, content = job.shard(0)
    content.label.values[1, 2, 3] = value
    with (
        StoreWriter.open(tmp_path / "s", job.config) as writer,
        pytest.raises(ValueError, match="a label value is NaN or infinite"),
    ):
        writer.commit(0, keys, content)


def test_a_finished_store_is_sound_for_every_codec(lab, tmp_path):
    stored = {"full": "f16", "hard": "u16", "mr:3": "f32", "logits": "f16"}
    for codec, dtype in [*stored.items(), ("logits", "i8")]:
        path = tmp_path / f"{codec} {dtype}"
        lab.Job(codec=codec, value_dtype=dtype).run(path)
        assert verify_store(path) == []


FOREIGN = {
    "an image": "holiday.jpg",
    "a shard of another program": "shards/data-00000-of-00001.tar",
    "another commit": "commits/HEAD",
    "a lock with something in it": "lock",
    "somebody's config": "config.json",
}


@pytest.mark.parametrize("name", FOREIGN.values(), ids=FOREIGN)
def test_nothing_is_written_among_files_of_others(lab, tmp_path, name):
    """Not even a lock: the folder is looked at first."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("theirs")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(FormatError, match="holds other files"):
        StoreWriter.open(tmp_path, lab.Job().config)
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    assert file.read_text() == "theirs"


def test_a_store_of_other_settings_is_refused_before_anything_is_written(lab, tmp_path):
    StoreWriter.open(tmp_path / "s", lab.Job().config).close()
    (tmp_path / "s/lock").unlink()
    (tmp_path / "s/.tmp.manifest.json.7").write_text("half")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(StoreMismatch, match="num_crops"):
        StoreWriter.open(tmp_path / "s", lab.Job(num_crops=4).config)
    assert sorted(map(str, tmp_path.rglob("*"))) == before
