"""Spot checks pass true labels of every codec, and see each way in which labels go wrong."""

import shutil
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fkd.crops.records import CropRecords
from fkd.crops.replay import replay
from fkd.data import canary
from fkd.data.sources import open_source
from fkd.errors import CropMismatch, StoreMismatch
from fkd.labeling import pipeline
from fkd.labeling.pipeline import Parallelism
from fkd.labeling.run import Progress, label
from fkd.labeling.store_checks import compare_outputs, require_agreement, spot_check
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import Codec
from fkd.models.teacher import load_teachers
from fkd.store import ImageFacts, LabeledCrops, LabelStore
from fkd.store.provenance import Provenance


@pytest.fixture(scope="module")
def config(make_config, tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("checks") / "store")
    label(config)
    return config


@pytest.fixture
def checked(config):
    return LabelStore.open(config.out), open_source(config.images), load_teachers([config.teacher])


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_true_labels_agree_in_batches_of_any_size(checked, batch_size):
    report = spot_check(*checked, 40, seed=3, parallelism=Parallelism(batch_size=batch_size))
    assert (report.labels.num, report.labels.top1_agreement) == (40, 1.0)
    assert 0.0 <= report.labels.mean_kl <= report.labels.max_kl < 1e-5
    assert report.labels.total_variation < 2e-5
    assert report.omitted_lead < 1e-6
    require_agreement(report, checked[0])


def test_checks_are_spread_over_the_images():
    rows, crops = canary.sample_positions(5, "spot check", 100, 1_000_000, 200)
    assert np.array_equal(rows // 10_000, np.arange(100))
    assert set(crops.tolist()) <= set(range(200))
    assert len(set(crops.tolist())) > 50
    again = canary.sample_positions(5, "spot check", 100, 1_000_000, 200)
    np.testing.assert_array_equal(rows, again[0])
    assert not np.array_equal(
        rows, canary.sample_positions(6, "spot check", 100, 1_000_000, 200)[0]
    )


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


def test_a_wrong_normalization_is_seen(checked):
    store, source, teachers = checked
    teacher = teachers.teachers[0]
    teacher.preprocessing = replace(teacher.preprocessing, mean=(0.2, 0.2, 0.2))
    report = spot_check(store, source, teachers)
    with pytest.raises(StoreMismatch, match="does not hold this teacher's labels"):
        require_agreement(report, store)


def test_other_weights_are_seen(checked, make_teacher, tmp_path):
    store, source, _ = checked
    other = load_teachers([make_teacher(tmp_path / "other.safetensors", seed=9)])
    report = spot_check(store, source, other)
    assert report.labels.top1_agreement < 0.9
    with pytest.raises(StoreMismatch):
        require_agreement(report, store)


def test_with_another_decoder_only_the_classes_must_agree(checked):
    store, source, teachers = checked
    report = spot_check(store, source, teachers)
    drifted = replace(report, labels=replace(report.labels, mean_kl=0.01, max_kl=0.1))
    with pytest.raises(StoreMismatch):
        require_agreement(drifted, store)
    require_agreement(drifted, store, same_decoder=False)
    wrong = replace(report.labels, top1_agreement=0.5)
    with pytest.raises(StoreMismatch):
        require_agreement(replace(drifted, labels=wrong), store, same_decoder=False)


def test_labels_of_others_may_be_of_pixels_nearly_the_same(checked):
    """Of labels that others have made, nobody knows how images were decoded and resized."""
    store, source, teachers = checked
    report = spot_check(store, source, teachers)
    imported = SimpleNamespace(
        config=store.config | {"origin": "imported"}, provenance=store.provenance, path=store.path
    )
    drifted = replace(report, labels=replace(report.labels, mean_kl=4e-4))
    with pytest.raises(StoreMismatch):
        require_agreement(drifted, store)
    require_agreement(drifted, imported)
    with pytest.raises(StoreMismatch):
        require_agreement(replace(report, labels=replace(report.labels, mean_kl=0.05)), imported)


def test_changed_images_are_named(checked, config, tmp_path, make_images):
    store, _, teachers = checked
    changed = make_images(tmp_path / "train", seed=1)
    source = open_source(replace(config.images, root=str(changed)))
    with pytest.raises(CropMismatch, match=r"\.png is not the file that was labeled"):
        spot_check(store, source, teachers)


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
    assert label(own).spot_checks.labels.num == 10


def equal_classes(gap):
    """Outputs of the teacher of one crop whose classes 1, 2 and 3 are (nearly) as probable."""
    return torch.tensor([[0.02, 0.3 + gap, 0.3, 0.3 - gap, 0.02, 0.03, 0.03]])


def stored_label(codec, outputs) -> LabeledCrops:
    """What is stored of one crop of one image, where the teacher gave these outputs."""
    label = parse_codec(codec).encode(outputs).map(lambda array: array[:, None])
    facts = ImageFacts(*(np.zeros(shape, np.uint8) for shape in ((1,), (1,), (1, 2), (1,))))
    return LabeledCrops(facts, CropRecords(np.zeros((1, 1, 4)), np.zeros((1, 1), bool)), label)


EXACT = Provenance(teachers=(), decoder=None, autocast=None)


@dataclass
class FakeStore:
    is_of_classes = True

    codec: Codec
    num_classes: int = 7
    path: str = "labels"
    provenance: Provenance = EXACT
    value_dtype: str | None = None
    config: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    "codec", ["hard", "mr:2", "ms:2", "smoothing", "logits:2", "hard*2", "sigmoid:2", "sigmoid:2*2"]
)
def test_equal_classes_may_be_exchanged(codec):
    """Which of two equal classes is kept depends on the last bits, hence on the machine."""
    store = FakeStore(parse_codec(codec))
    here, there = (equal_classes(gap) for gap in (1e-7, -1e-7))
    if codec.endswith("*2"):
        here, there = (torch.stack([equal_classes(0.1), o], dim=1) for o in (here, there))
    stored = stored_label(codec, here)
    assert not np.array_equal(store.codec.encode(there).ids, stored.label.ids[:, 0])
    report = compare_outputs(store, there, stored)
    assert report.labels.max_kl < 1e-6
    assert report.omitted_lead < 1e-6
    sound = replace(report, labels=replace(report.labels, top1_agreement=1.0))
    require_agreement(sound, store)


@pytest.mark.parametrize(
    "codec", ["hard", "mr:2", "ms:2", "smoothing", "logits:2", "hard*2", "sigmoid:2", "sigmoid:2*2"]
)
def test_other_classes_are_seen_even_if_most_are_right(codec):
    """One of ten labels is of another crop; the most probable class of the others agrees."""
    store = FakeStore(parse_codec(codec))
    right, wrong = equal_classes(0.1), equal_classes(0.1).flip(1)
    if codec.endswith("*2"):
        right, wrong = (torch.stack([output, output], dim=1) for output in (right, wrong))
    report = sum(
        (compare_outputs(store, right, stored_label(codec, right)) for _ in range(9)),
        start=compare_outputs(store, right, stored_label(codec, wrong)),
    )
    assert report.labels.top1_agreement == pytest.approx(0.9)
    assert report.omitted_lead > 0.01
    agreeing = replace(report, labels=replace(report.labels, top1_agreement=0.9))
    with pytest.raises(StoreMismatch, match="does not hold this teacher's labels"):
        require_agreement(agreeing, store)


@pytest.mark.parametrize("codec", ["full", "logits", "sigmoid"])
def test_codecs_that_keep_all_classes_omit_none(codec):
    store = FakeStore(parse_codec(codec))
    outputs = equal_classes(0.1)
    report = compare_outputs(store, outputs, stored_label(codec, outputs))
    assert (report.omitted_lead, report.labels.top1_agreement) == (0.0, 1.0)
    wrong = compare_outputs(store, outputs, stored_label(codec, outputs.flip(1)))
    with pytest.raises(StoreMismatch):
        require_agreement(wrong, store)


def test_hard_labels_of_two_teachers_end_in_a_checked_store(make_config, make_teacher, tmp_path):
    teachers = [make_teacher(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1)]
    config = make_config(tmp_path / "store", teachers=teachers, codec="hard", separate=True)
    assert label(config).spot_checks.omitted_lead == 0.0
