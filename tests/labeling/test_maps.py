"""Label maps from end to end, with the promises of the label store."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from fkd.cli import main
from fkd.crops.replay import replay, whole_image
from fkd.data import canary
from fkd.data.canary import check_canaries
from fkd.data.multicrop import MultiCropDataset
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, CropMismatch, ImageError, StoreMismatch, TeacherError
from fkd.labeling.config import LabelMapsConfig, resolve_images_per_shard
from fkd.labeling.run import Progress, label_maps
from fkd.labeling.store_checks import require_agreement, spot_check
from fkd.labels.codecs import TopKLogits
from fkd.models.dense import DenseTeacher
from fkd.models.preprocessing import Preprocessing
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LabelStore, verify_store
from fkd.viewing.page import render_page
from fkd.viewing.summary import summarize


@pytest.fixture(scope="module")
def make_maps(teacher, image_folder):
    """A run on 15 images, shards of 4 images and batches of 8; maps of 3 x 3 cells."""

    def make(out, **options) -> LabelMapsConfig:
        settings = {
            "images": ImagesConfig(root=str(image_folder)),
            "teacher": replace(teacher, input_size=96),
            "top_k": 3,
            "images_per_shard": 4,
            "batch_size": 8,
            "accuracy_images": 0,
            "spot_checks": 15,
        }
        return LabelMapsConfig(out=str(out), **(settings | options))

    return make


@pytest.fixture(scope="module")
def plain(make_maps, tmp_path_factory):
    config = make_maps(tmp_path_factory.mktemp("maps") / "store")
    result = label_maps(config)
    assert result.spot_checks.labels.num == 15
    assert result.spot_checks.labels.top1_agreement == 1.0
    return config


def test_maps_are_the_teachers_word_on_whole_images(plain):
    """The oracle: one image at a time, resized to a square, the classifier cell by cell."""
    store, source = LabelStore.open(plain.out), open_source(plain.images)
    dense = DenseTeacher(load_teachers([plain.teacher]).teachers[0])
    assert store.grid == dense.grid == (3, 3)
    assert store.codec == TopKLogits(3)
    assert store.config["form"] == "map"
    assert verify_store(plain.out) == []
    stored = store.read(np.arange(15))
    for i in range(15):
        image = load(source, i).image
        height, width = image.shape[1:]
        assert store.images([i]).size.tolist() == [[height, width]]
        picture = torch.nn.functional.interpolate(
            image[None], (96, 96), mode=dense.view[1], antialias=True
        )
        top = dense.logit_maps(picture)[0].topk(3)
        np.testing.assert_array_equal(stored.label.ids[i], top.indices.numpy())
        np.testing.assert_allclose(stored.label.values[i], top.values.numpy(), rtol=1e-3, atol=1e-2)
    assert stored.records.box[0, 0, :2].tolist() == [0, 0]
    assert not stored.records.flip.any()


class Stop(Exception):
    """What a test raises to end a run."""


class StopAfter(Progress):
    def __init__(self, num_images):
        self._left = num_images

    def advanced(self, num_crops):
        self._left -= num_crops
        if self._left < 0:
            raise Stop


@pytest.mark.parametrize("num_images", [0, 5, 11, 14])
def test_a_stopped_run_goes_on_to_the_same_bytes(plain, tmp_path, files_of, num_images):
    config = replace(plain, out=str(tmp_path / "store"))
    with pytest.raises(Stop):
        label_maps(config, StopAfter(num_images))
    committed = 4 * len(list((tmp_path / "store" / "commits").iterdir()))
    assert committed < 15
    done = []

    class Listener(Progress):
        def started(self, start):
            done.append((start.num_crops_done, start.num_crops))

    label_maps(config, Listener())
    assert done == [(committed, 15 - committed)]
    assert files_of(config.out) == files_of(plain.out)


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [("top_k", 2, "codec"), ("batch_size", 4, "batch_size"), ("value_dtype", "f32", "value_dtype")],
)
def test_maps_of_other_settings_are_refused_by_field(plain, option, value, field):
    with pytest.raises(StoreMismatch, match=field):
        label_maps(replace(plain, **{option: value}))


def test_an_unreadable_image_keeps_its_row(plain, tmp_path, make_images):
    root = make_images(tmp_path / "train")
    (root / "bee/2.png").write_bytes(b"")
    config = replace(plain, images=ImagesConfig(root=str(root)), out=str(tmp_path / "store"))
    with pytest.raises(ImageError, match=r"bee/2.png .*empty"):
        label_maps(config)
    label_maps(replace(config, max_unreadable=1))
    store, whole = LabelStore.open(config.out), LabelStore.open(plain.out)
    row = int(store.rows([b"bee/2.png"])[0])
    assert store.images(np.arange(15)).status.nonzero()[0].tolist() == [row]
    others = [i for i in range(15) if i != row]
    assert store.read(others).label.ids.tolist() == whole.read(others).label.ids.tolist()
    assert verify_store(config.out) == []


@pytest.mark.parametrize("spoil", ["mirror", "center", "transpose"])
def test_the_audit_sees_maps_of_other_pictures(plain, monkeypatch, spoil):
    store, source = LabelStore.open(plain.out), open_source(plain.images)
    teachers = load_teachers([plain.teacher])
    report = spot_check(store, source, teachers, 15)
    require_agreement(report, store)
    change = {
        "mirror": lambda x: x.flip(-1),
        "center": _center,
        "transpose": lambda x: x.transpose(2, 3),
    }[spoil]
    normalize = Preprocessing.normalize
    monkeypatch.setattr(
        Preprocessing, "normalize", lambda self, crops: normalize(self, change(crops))
    )
    spoilt = spot_check(store, source, teachers, 15)
    with pytest.raises(StoreMismatch, match="does not hold this teacher's labels"):
        require_agreement(spoilt, store)


def _center(pictures):
    """What a teacher sees who cuts the center out."""
    cut = pictures[:, :, 20:76, 20:76]
    return torch.nn.functional.interpolate(cut, (96, 96), mode="bilinear", antialias=True)


def test_canaries_hold_the_whole_picture(plain, monkeypatch):
    store, source = LabelStore.open(plain.out), open_source(plain.images)
    report = check_canaries(store, source)
    assert report.num == report.num_exact == 4
    one = store.canaries[0]
    image = load(source, one.row).image
    picture = replay(image, whole_image(tuple(image.shape[1:])), 96, "bicubic")[0]
    assert canary._fingerprint(picture)[0] == one.sha256
    monkeypatch.setattr(canary, "whole_image", lambda size: whole_image((size[0] - 1, size[1])))
    with pytest.raises(CropMismatch, match="differs from what the teacher saw"):
        check_canaries(store, source)


def test_classes_of_the_folders_are_kept_alone(plain, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["ant", "wasp", "cat", "elk", "bee", "dog", "fox"]))
    named = replace(plain.teacher, class_names=str(names))
    config = replace(plain, teacher=named, classes="dataset", out=str(tmp_path / "store"))
    label_maps(replace(config, top_k=2, accuracy_images=15))
    few, whole = LabelStore.open(config.out).read([0]), LabelStore.open(plain.out).read([0])
    assert LabelStore.open(config.out).class_names == ("ant", "bee", "cat")
    outputs = np.array([0, 4, 2])
    for cell in range(9):
        kept = [c for c in whole.label.ids[0, cell].tolist() if c in outputs]
        found = outputs[few.label.ids[0, cell]].tolist()
        assert found[: len(kept)] == kept[:2]


def test_a_store_of_maps_can_be_looked_at(plain):
    store = LabelStore.open(plain.out)
    summary = summarize(store)
    assert summary.facts["label maps"] == "3 x 3 cells, each as a crop below"
    assert "crops per image" not in summary.facts
    page = render_page(store, open_source(plain.images))
    assert "data:image/jpeg" in page


def test_methods_of_crops_refuse_maps(plain):
    with pytest.raises(ConfigError, match="holds label maps and no crops; use method relabel"):
        MultiCropDataset(open_source(plain.images), LabelStore.open(plain.out))


def test_unsuitable_teachers_and_settings_are_refused(make_maps, tmp_path):
    out = tmp_path / "store"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "vit.pth")
    vit = TeacherConfig("test_vit", checkpoint=str(tmp_path / "vit.pth"))
    with pytest.raises(TeacherError, match="test_vit has no label maps"):
        label_maps(make_maps(out, teacher=vit))
    with pytest.raises(ConfigError, match="top:8 keeps 8 classes"):
        label_maps(make_maps(out, top_k=8))
    for options, message in [
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"value_dtype": "u16"}, "value_dtype: 'u16' is none of f16, f32"),
        ({"classes": "all"}, "classes: 'all' is none of"),
        ({"min_accuracy": 2.0}, "min_accuracy must lie"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_maps(out, **options)
    assert not out.exists()


def test_a_shard_of_maps_is_a_thousand_passes():
    assert resolve_images_per_shard(None, 1_281_167, 1) == 1252
    assert resolve_images_per_shard(None, 500, 1) == 1024


def test_the_command_makes_maps_and_verify_believes_them(plain, tmp_path, capsys):
    images = ["--images.root", plain.images.root]
    teacher = [f"--teacher.{k}={getattr(plain.teacher, k)}" for k in ("name", "checkpoint")]
    teacher += ["--teacher.input_size=96"]
    out = str(tmp_path / "store")
    main(["label-maps", *images, *teacher, "--out", out, "--top_k", "3"])
    printed = capsys.readouterr().out
    assert "maps of 3 x 3 cells per image, top:3 f16" in printed
    assert "15 of 15 images, " in printed
    assert "15 label maps of 3 x 3 cells" in printed
    main(["verify", out, *images, *teacher])
    printed = capsys.readouterr().out
    assert "canaries  4 of 4 crops" in printed
    assert "checked   64 labels compared: top-1 agreement 100.00%" in printed
    main(["inspect", out])
    assert "label maps" in capsys.readouterr().out
