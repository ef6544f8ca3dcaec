"""Stores whose temperature or teachers' weights are chosen by the student."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.labeling.run import label
from fkd.labels.codec_names import with_teacher_weights, with_temperature
from fkd.labels.codecs import decode
from fkd.store import LabelStore, convert_store, verify_store
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train


@pytest.fixture(scope="module")
def teachers(make_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return [
        make_teacher(folder / "a.safetensors", seed=0, weight=3.0),
        make_teacher(folder / "b.safetensors", seed=1, input_size=48),
    ]


@pytest.fixture(scope="module")
def separate(teachers, make_config, tmp_path_factory) -> LabelStore:
    """Labels of two teachers side by side; the spot checks at the end have passed."""
    out = tmp_path_factory.mktemp("separate") / "store"
    result = label(make_config(out, teachers=teachers, separate=True))
    assert result.spot_checks.labels.top1_agreement == 1.0
    return LabelStore.open(out)


def labels_of(store, codec=None):
    labels = store.read(np.arange(store.num_images)).label
    return decode(codec or store.codec, labels, store.num_classes)


def test_each_teacher_has_its_own_label(separate, teachers, make_config, tmp_path):
    assert separate.codec.name == "ms:3*2"
    assert verify_store(separate.path) == []
    for number, teacher in enumerate(teachers):
        label(make_config(tmp_path / str(number), teacher=teacher))
        own = LabelStore.open(tmp_path / str(number))
        chosen = with_teacher_weights(separate.codec, [float(number == t) for t in range(2)])
        torch.testing.assert_close(labels_of(separate, chosen), labels_of(own), atol=3e-5, rtol=0)


def test_by_default_teachers_weigh_what_they_weighed_when_they_labeled(
    separate, teachers, make_config, tmp_path
):
    assert separate.codec.weights == (3.0, 1.0)
    label(make_config(tmp_path / "mean", teachers=teachers, codec="full"))
    label(make_config(tmp_path / "apart", teachers=teachers, codec="full", separate=True))
    mean, apart = (labels_of(LabelStore.open(tmp_path / name)) for name in ("mean", "apart"))
    torch.testing.assert_close(apart, mean, atol=3e-5, rtol=0)


def test_a_store_of_logits_keeps_every_temperature(make_config, tmp_path):
    label(make_config(tmp_path / "top", codec="logits:7", value_dtype="f32"))
    label(make_config(tmp_path / "all", codec="logits", value_dtype="f32"))
    top, full = (LabelStore.open(tmp_path / name) for name in ("top", "all"))
    for t in (1.0, 3.0):
        torch.testing.assert_close(
            labels_of(top, with_temperature(top.codec, t)),
            labels_of(full, with_temperature(full.codec, t)),
            atol=1e-5,
            rtol=0,
        )


def test_top_logits_become_smaller_labels_without_the_teacher(make_config, tmp_path):
    label(make_config(tmp_path / "logits", codec="logits:4", value_dtype="f32"))
    label(make_config(tmp_path / "ms", codec="ms:3", value_dtype="f32"))
    for codec in ("ms:3", "logits:2", "hard"):
        done = convert_store(tmp_path / "logits", tmp_path / codec, form="plain", codec=codec)
        assert done.after.codec.name == codec
        assert done.comparison.top1_agreement == 1.0
    converted = LabelStore.open(tmp_path / "ms:3")
    torch.testing.assert_close(
        labels_of(converted), labels_of(LabelStore.open(tmp_path / "ms")), atol=2e-5, rtol=0
    )
    with pytest.raises(ConfigError, match="labels of codec logits:4 have no compact form"):
        convert_store(tmp_path / "logits", tmp_path / "compact", form="compact")


def test_students_choose(separate, make_config, image_folder, tmp_path):
    images = ImagesConfig(root=str(image_folder))
    config = TrainConfig(
        out=str(tmp_path / "run"),
        images=images,
        student=StudentConfig(name="test_resnet", input_size=32),
        store=str(separate.path),
        crops_per_image=2,
        epochs=2,
        batch_size=8,
        num_workers=0,
    )
    losses = set()
    for number, weights in enumerate(([], [3.0, 1.0], [0.0, 1.0])):
        run = replace(config, out=f"{config.out}-{number}", teacher_weights=weights)
        losses.add(train(run).loss)
    assert len(losses) == 2  # the first two are the same
    with pytest.raises(ConfigError, match="are of 2 teachers, got 3 weights"):
        train(replace(config, teacher_weights=[1.0, 1.0, 1.0]))
    with pytest.raises(ConfigError, match="ms:3 labels is fixed"):
        train(replace(config, label_temperature=2.0))
    label(make_config(tmp_path / "logits", codec="logits:3"))
    cool, warm = (
        replace(config, out=f"{config.out}-t{t}", store=str(tmp_path / "logits")) for t in (1, 4)
    )
    assert train(cool).loss != train(replace(warm, label_temperature=4.0)).loss


def test_what_cannot_be_kept_apart_is_refused(make_config, teachers, tmp_path):
    for options, message in (
        ({"separate": True}, "separate: keeps the probabilities of several teachers apart"),
        ({"teachers": teachers, "separate": True, "codec": "logits"}, "separate: keeps"),
        ({"teachers": teachers, "codec": "ms:3*2"}, "write --codec ms:3 --separate"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_config(tmp_path / "store", **options)
    with pytest.raises(ConfigError, match=r"labels of codec ms:3\*2 have no compact form"):
        label(make_config(tmp_path / "store", teachers=teachers, separate=True, form="compact"))
