"""Stores of several embedding teachers: standardized once, recorded, and the same when resumed."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling import standardize as module
from fkd.labeling.run import Progress, label
from fkd.labeling.store_checks import load_teachers_of, require_agreement, spot_check
from fkd.models.teacher import TeacherConfig
from fkd.store import verify_store


def write_backbone(folder, name, scale=1.0) -> TeacherConfig:
    """A network whose features are `scale` times as large as they would be."""
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=0).state_dict()
    last = {"test_vit": ("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias")}
    state = {k: v * scale if k in last.get(name, ()) else v for k, v in state.items()}
    save_file(state, folder / f"{name}.safetensors")
    return TeacherConfig(name, checkpoint=str(folder / f"{name}.safetensors"), output="features")


@pytest.fixture
def config(make_config, tmp_path):
    teachers = [
        replace(write_backbone(tmp_path, "test_resnet"), input_size=32),
        replace(write_backbone(tmp_path, "test_vit", scale=100.0), weight=3.0),
    ]
    return make_config(
        tmp_path / "store", teachers=teachers, codec="logits", num_crops=3, value_dtype="f32"
    )


def test_every_part_has_its_share_of_the_length(config):
    store = label(config).store
    values = np.asarray(store.read(np.arange(15)).label.values).reshape(45, -1)
    width = timm.create_model("test_resnet").num_features
    lengths = [np.square(part).sum(1).mean() for part in (values[:, :width], values[:, width:])]
    assert lengths == pytest.approx([0.25, 0.75], rel=0.2)
    assert values.shape[1] == store.num_classes
    assert verify_store(config.out) == []


def test_a_killed_run_ends_in_the_same_bytes_without_measuring_again(
    config, files_of, tmp_path, monkeypatch
):
    label(config)
    killed = replace(config, out=str(tmp_path / "killed"))

    class Kill(Progress):
        def advanced(self, num_crops):
            if (Path(killed.out) / "commits" / "00001.json").exists():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(killed, Kill())
    monkeypatch.setattr(module, "_measure", None)  # what is recorded counts, on any machine
    label(killed)
    assert files_of(killed.out) == files_of(config.out)


def test_the_labels_are_checked_with_what_is_recorded(config, image_source):
    store = label(config).store
    teachers = load_teachers_of(store, config.teachers)
    report = spot_check(store, image_source, teachers)
    assert f"{report.mean_cosine:.3f}" == "1.000"
    require_agreement(report, store)
    with pytest.raises(StoreMismatch, match="another teacher"):
        load_teachers_of(store, config.teachers[::-1])
    with pytest.raises(StoreMismatch, match="another teacher"):
        load_teachers_of(store, config.teachers[:1])


def test_fast_numerics_are_compared_by_cosine(config, tmp_path):
    result = label(replace(config, numerics="fast", out=str(tmp_path / "fast")))
    assert "embeddings compared: cosine 1.000" in str(result.precision_impact)


def test_images_that_cannot_be_read_are_left_out(config, tmp_path, make_images):
    folder = make_images(tmp_path / "images")
    (folder / "ant" / "0.png").write_bytes(b"no image")
    images = replace(config.images, root=str(folder))
    result = label(replace(config, images=images, max_unreadable=1))
    assert len(result.unreadable) == 1


def test_a_teacher_that_says_the_same_of_everything_is_refused(config):
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    file = config.teachers[0].checkpoint
    save_file({key: torch.zeros_like(value) for key, value in state.items()}, file)
    with pytest.raises(ConfigError, match="test_resnet gives the same number for every crop"):
        label(config)


def test_classes_of_the_data_set_mean_nothing_to_features(config):
    with pytest.raises(ConfigError, match="classes: features of a teacher are no classes"):
        replace(config, classes="dataset")


def test_a_mean_is_rounded_as_the_length_is():
    """The last bits of features whose mean is 0 depend on the machine."""
    embeddings = torch.tensor([[8.0, 1e-7], [-8.0, 1e-7]], dtype=torch.float64)
    assert module._standardization(embeddings, "net") == (0.0, 8.0)
    for tiny in (1e-9, -1e-9):  # the sign is a last bit, too, and would be in the store's identity
        mean, _ = module._standardization(embeddings * torch.tensor([1.0, 0.0]) + tiny, "net")
        assert math.copysign(1.0, mean) == 1.0
    found = module._standardization(1234.5678 * embeddings + 3.14159, "net")
    assert found == (3.0, 9877.0)
