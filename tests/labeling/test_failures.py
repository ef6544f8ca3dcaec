"""Every way in which labeling can fail: one sentence, nothing lost, nothing half-written."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fkd.data.sources import ImagesConfig
from fkd.errors import (
    ConfigError,
    CropMismatch,
    FormatError,
    ImageError,
    StoreFull,
    StoreLocked,
    TeacherError,
)
from fkd.labeling import run
from fkd.labeling.run import label
from fkd.labels.codecs import Logits
from fkd.store import LabelStore, StoreWriter, verify_store


@pytest.fixture
def own_images(image_folder, tmp_path):
    """A copy of the images that a test may damage; the third shard of 4 begins with bee/3.png."""
    return Path(shutil.copytree(image_folder, tmp_path / "train"))


@pytest.fixture
def config(make_config, own_images, tmp_path):
    return make_config(tmp_path / "store", images=ImagesConfig(root=str(own_images)))


def committed(config) -> list[str]:
    return sorted(path.stem for path in (Path(config.out) / "commits").iterdir())


def test_unreadable_images_are_named_and_their_shards_wait_for_better_files(
    config, own_images, files_of, tmp_path
):
    good = {name: (own_images / name).read_bytes() for name in ("ant/1.png", "cat/0.png")}
    (own_images / "ant/1.png").write_bytes(b"")
    (own_images / "cat/0.png").write_bytes(good["cat/0.png"][:100])
    with pytest.raises(ImageError) as caught:
        label(config)
    message = str(caught.value)
    assert message.startswith("2 of 15 images cannot be labeled: ")
    for part in ("ant/1.png is empty", "cat/0.png is damaged", "--max_unreadable 2"):
        assert part in message
    assert committed(config) == ["00001", "00003"]  # ant/1 lies in shard 0, cat/0 in shard 2
    for name, data in good.items():
        (own_images / name).write_bytes(data)
    label(config)
    fresh = replace(config, out=str(tmp_path / "fresh"))
    label(fresh)
    assert files_of(config.out) == files_of(fresh.out)


def test_allowed_unreadable_images_keep_their_rows(config, own_images, tmp_path):
    whole = replace(config, out=str(tmp_path / "whole"))
    label(whole)
    (own_images / "bee/2.png").write_text("<html>not found</html>")
    result = label(replace(config, max_unreadable=1))
    assert len(result.unreadable) == 1
    assert "bee/2.png is an HTML page" in result.unreadable[0]
    store, expected = LabelStore.open(config.out), LabelStore.open(whole.out)
    row = int(store.rows([b"bee/2.png"])[0])
    assert store.images(np.arange(15)).status.nonzero()[0].tolist() == [row]
    others = [i for i in range(15) if i != row]
    assert store.keys() == expected.keys()
    assert store.read(others).label.ids.tolist() == expected.read(others).label.ids.tolist()
    assert verify_store(config.out) == []


def test_a_shard_of_unreadable_images_only_can_be_allowed(config, own_images):
    for name in ("ant/0", "ant/1", "ant/2", "ant/3"):
        (own_images / f"{name}.png").write_bytes(b"")
    label(replace(config, max_unreadable=4))
    assert LabelStore.open(config.out).images(np.arange(15)).status.sum() == 4


def test_more_unreadable_images_than_allowed_are_counted(config, own_images):
    for i in range(5):
        (own_images / f"bee/{i}.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"5 of 15 images .* and 2 more.*--max_unreadable 5"):
        label(replace(config, max_unreadable=4))
    assert committed(config) == ["00000", "00003"]


def save_image(path, mode, size=(30, 20), color=120, **options):
    Image.new(mode, size, color).save(path, **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("16-bit.png", lambda path: save_image(path, "I;16", color=30_000)),
        ("cmyk.jpg", lambda path: save_image(path, "CMYK")),
        ("palette.png", lambda path: save_image(path, "P")),
        ("gray.png", lambda path: save_image(path, "L")),
        ("alpha.png", lambda path: save_image(path, "RGBA")),
        ("narrow.png", lambda path: save_image(path, "RGB", (1, 200))),
        ("dot.png", lambda path: save_image(path, "RGB", (1, 1))),
    ],
)
def test_unusual_images_are_labeled(config, own_images, name, write):
    write(own_images / "ant" / name)
    assert label(config).spot_checks.labels.top1_agreement == 1.0


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("12-bit.png", lambda path: save_image(path, "I;16", color=4095), "would become nearly"),
        ("zero.png", lambda path: path.write_bytes(b""), "is empty"),
        (
            "moving.gif",
            lambda path: save_image(
                path, "RGB", save_all=True, append_images=[Image.new("RGB", (30, 20), "red")]
            ),
            "several frames",
        ),
        (
            "huge.png",
            lambda path: save_image(path, "1", (10000, 9000)),
            "10000x9000 pixels, more than",
        ),
        ("page.jpg", lambda path: path.write_text("<!DOCTYPE html>"), "an HTML page"),
    ],
)
def test_images_without_one_meaning_are_refused_by_name(config, own_images, name, write, reason):
    write(own_images / "ant" / name)
    with pytest.raises(ImageError, match=f"ant/{name} .*{reason}"):
        label(config)


def test_a_missing_or_empty_folder_writes_nothing(config, tmp_path):
    (tmp_path / "empty").mkdir()
    for root, reason in (("nowhere", "does not exist"), ("empty", "no image files")):
        images = ImagesConfig(root=str(tmp_path / root))
        with pytest.raises(ConfigError, match=f"images.root: .*{reason}"):
            label(replace(config, images=images))
    assert not Path(config.out).exists()


def test_a_teacher_that_gives_nan_is_named_with_the_crop(config, teacher, tmp_path):
    state = load_file(teacher.checkpoint)
    state["classifier.bias"].fill_(torch.nan)
    save_file(state, tmp_path / "nan.safetensors")
    broken = replace(teacher, checkpoint=str(tmp_path / "nan.safetensors"))
    with pytest.raises(TeacherError, match=r"NaN or infinity .*crop 0 of .*ant/0\.png"):
        label(replace(config, teacher=broken))
    assert committed(config) == []


def test_logits_too_large_for_half_floats_are_refused_with_the_way_out(config, teacher, tmp_path):
    state = load_file(teacher.checkpoint)
    state["classifier.bias"].fill_(1e5)
    save_file(state, tmp_path / "large.safetensors")
    large = replace(teacher, checkpoint=str(tmp_path / "large.safetensors"))
    options = {"teacher": large, "codec": Logits()}
    with pytest.raises(TeacherError, match=r"crop 0 of .*ant/0\.png.*--value_dtype f32"):
        label(replace(config, **options))
    label(replace(config, out=config.out + "32", value_dtype="f32", **options))


def test_an_unknown_teacher_writes_nothing(config, teacher):
    with pytest.raises(ConfigError, match=r"unknown model .*; did you mean test_efficientnet"):
        label(replace(config, teacher=replace(teacher, name="test_efficientne")))
    assert not Path(config.out).exists()


def test_a_second_writer_is_refused(config):
    label(config)
    (Path(config.out) / "manifest.json").unlink()
    with (
        StoreWriter.open(config.out, LabelStore.open(config.out, partial=True).config),
        pytest.raises(StoreLocked, match="another process is writing"),
    ):
        label(config)


def test_an_image_that_changes_during_the_run_is_noticed(config, own_images, monkeypatch):
    """Labels of the old picture must not be finished beside the new one: checks read it again."""
    label(replace(config, images_per_shard=15))
    (Path(config.out) / "manifest.json").unlink()
    for path in own_images.rglob("*.png"):
        path.write_bytes((own_images / "ant/0.png").read_bytes())
    monkeypatch.setattr(run, "find_changed_shards", lambda *given: ([], ""))  # not yet changed
    with pytest.raises(CropMismatch, match="is not the file that was labeled"):
        label(replace(config, images_per_shard=15))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": ""}, "out: give the folder"),
        ({"codec": "ms5"}, "codec 'ms5' is unknown"),
        ({"images_per_shard": 0}, "images_per_shard must be at least 1"),
        ({"spot_checks": -1}, "spot_checks must be at least 0"),
        ({"num_crops": 0}, "num_crops must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"max_unreadable": -1}, "max_unreadable must be at least 0"),
        ({"min_accuracy": 90.0}, r"min_accuracy must lie in \[0, 1\], got 90"),
        ({"autocast": "fp8"}, "autocast: 'fp8' is none of bf16, fp16"),
        ({"numerics": "quick"}, "numerics: 'quick' is none of exact, fast"),
        ({"numerics": None}, "numerics: None is none of exact, fast"),
        ({"autocast": "bf16"}, "autocast: bf16 is not exact; add --numerics fast"),
        ({"classes": "both"}, "classes: 'both' is none of teacher, dataset"),
        ({"codec": "logits", "value_dtype": "u16"}, "u16 holds probabilities only"),
        ({"codec": "top:5"}, "is for label maps"),
        ({"teacher": None}, "teacher.name: name one teacher"),
        ({"device": "tpu"}, "device: 'tpu' cannot be used"),
    ],
)
def test_impossible_settings_are_refused_by_name(make_config, tmp_path, options, message):
    out = options.pop("out", str(tmp_path / "store"))
    with pytest.raises(ConfigError, match=message):
        label(make_config(out, **options))
    assert not (tmp_path / "store").exists()


def test_a_full_disk_keeps_what_is_committed_and_the_same_command_goes_on(
    config, files_of, tmp_path, monkeypatch
):
    whole = replace(config, out=str(tmp_path / "whole"))
    label(whole)
    fsync, calls = os.fsync, iter(range(1000))

    def fill(descriptor):
        if next(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(StoreFull, match="same command"):
        label(config)
    monkeypatch.undo()
    assert 0 < len(committed(config)) < 4
    label(config)
    assert files_of(config.out) == files_of(whole.out)


@pytest.mark.parametrize("name", ["holiday.jpg", "config.json", "lock", "shards/0.tar"])
def test_a_folder_of_others_is_refused_before_the_teacher_is_measured(config, monkeypatch, name):
    file = Path(config.out) / name
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    monkeypatch.setattr(run, "measure_accuracy", lambda *given, **more: pytest.fail("measured"))
    with pytest.raises(FormatError, match="holds other files"):
        label(replace(config, accuracy_images=4))
    assert [path for path in Path(config.out).rglob("*") if path.is_file()] == [file]
