"""The probe audit must pass on true labels, and must see each way in which labels go wrong."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from fkd.crops.records import CropRecords
from fkd.crops.replay import replay
from fkd.data import canary
from fkd.data.sources import open_source
from fkd.errors import CropMismatch, StoreMismatch
from fkd.labeling import Progress, audit_probes, label, pipeline, require_agreement
from fkd.labeling.pipeline import Parallelism
from fkd.models.teacher import load_teachers
from fkd.store import LabelStore


@pytest.fixture(scope="module")
def config(make_config, tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("audit") / "store")
    label(config)
    return config


@pytest.fixture
def audited(config):
    return LabelStore.open(config.out), open_source(config.images), load_teachers([config.teacher])


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_true_labels_agree_in_batches_of_any_size(audited, batch_size):
    report = audit_probes(
        *audited, probes=40, seed=3, parallelism=Parallelism(batch_size=batch_size)
    )
    assert (report.num, report.top1_agreement) == (40, 1.0)
    assert 0.0 <= report.mean_kl <= report.max_kl < 1e-5
    assert report.max_abs_diff < 2e-5
    require_agreement(report, audited[0])


def test_probes_are_spread_over_the_images():
    rows, crops = canary.sample_places(5, "audit", 100, 1_000_000, 200)
    assert np.array_equal(rows // 10_000, np.arange(100))
    assert set(crops.tolist()) <= set(range(200))
    assert len(set(crops.tolist())) > 50
    again = canary.sample_places(5, "audit", 100, 1_000_000, 200)
    np.testing.assert_array_equal(rows, again[0])
    assert not np.array_equal(rows, canary.sample_places(6, "audit", 100, 1_000_000, 200)[0])


class WhileLabeling(Progress):
    """Breaks something until the spot checks begin."""

    def __init__(self, monkeypatch, *patch):
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(*patch)

    def checking(self):
        self.monkeypatch.undo()


def unflipped(image, records, size, interpolation, **options):
    return replay(
        image, replace(records, flip=np.zeros_like(records.flip)), size, interpolation, **options
    )


def shifted(image, records, size, interpolation, **options):
    """Boxes read as (left, top, height, width)."""
    height, width = image.shape[1:]
    box = records.box[:, [1, 0, 2, 3]]
    box[:, 0] = np.minimum(box[:, 0], height - box[:, 2])
    box[:, 1] = np.minimum(box[:, 1], width - box[:, 3])
    return replay(image, CropRecords(box, records.flip), size, interpolation, **options)


def other_interpolation(image, records, size, interpolation, **options):
    other = "bicubic" if interpolation == "bilinear" else "bilinear"
    return replay(image, records, size, other, **options)


@pytest.mark.parametrize("wrong", [unflipped, shifted, other_interpolation])
def test_crops_cut_otherwise_than_recorded_are_seen(config, tmp_path, monkeypatch, wrong):
    breaks = WhileLabeling(monkeypatch, pipeline, "replay", wrong)
    with pytest.raises(StoreMismatch, match="does not hold this teacher's labels"):
        label(replace(config, out=str(tmp_path / "store"), spot_checks=32), breaks)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_wrong_normalization_is_seen(audited):
    store, source, teachers = audited
    teacher = teachers.teachers[0]
    teacher.preprocessing = replace(teacher.preprocessing, mean=(0.2, 0.2, 0.2))
    report = audit_probes(store, source, teachers)
    with pytest.raises(StoreMismatch, match="does not hold this teacher's labels"):
        require_agreement(report, store)


def test_other_weights_are_seen(audited, make_teacher, tmp_path):
    store, source, _ = audited
    other = load_teachers([make_teacher(tmp_path / "other.safetensors", seed=9)])
    report = audit_probes(store, source, other)
    assert report.top1_agreement < 0.9
    with pytest.raises(StoreMismatch):
        require_agreement(report, store)


def test_with_another_decoder_only_the_classes_must_agree(audited):
    store, source, teachers = audited
    report = audit_probes(store, source, teachers)
    drifted = replace(report, mean_kl=0.01, max_kl=0.1)
    with pytest.raises(StoreMismatch):
        require_agreement(drifted, store)
    require_agreement(drifted, store, same_decoder=False)
    with pytest.raises(StoreMismatch):
        require_agreement(replace(drifted, top1_agreement=0.5), store, same_decoder=False)


def test_changed_images_are_named(audited, config, tmp_path, make_images):
    store, _, teachers = audited
    changed = make_images(tmp_path / "train", seed=1)
    source = open_source(replace(config.images, root=str(changed)))
    with pytest.raises(CropMismatch, match=r"\.png is not the file that was labeled"):
        audit_probes(store, source, teachers)


def test_unreadable_images_are_left_out(config, tmp_path, image_folder):
    images = shutil.copytree(image_folder, tmp_path / "train")
    for path in (images / "ant").iterdir():
        path.write_bytes(b"")
    own = replace(
        config,
        out=str(tmp_path / "store"),
        images=replace(config.images, root=str(images)),
        max_unreadable=5,
        spot_checks=15,
    )
    assert label(own).spot_checks.num == 10
