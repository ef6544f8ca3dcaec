"""Whole runs of S2-BNN online: they resume exactly, with any number of processes, in two steps."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.data.mixing import MixingConfig
from fkd.engine.optim import OptimizerConfig
from fkd.engine.order import Order
from fkd.engine.schedule import Pass, ScheduleConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.methods import ContrastConfig
from fkd.models.architectures import reactnet
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig, TrainConfig, all_passes
from fkd.training.defaults import fill_defaults, odd_settings
from fkd.training.run import train
from tests.training.processes import Stop, StopAt, train_together

METHODS = ("s2bnn", "s2bnn-both", "moco")


@pytest.fixture
def config_of(plain_run, tmp_path):
    """A run of a method: 15 images, two crops of each in a pass, 7 crops of images a step."""
    torch.manual_seed(0)
    weights = _weights_of("test_resnet", tmp_path)
    teacher = TeacherConfig("test_resnet", checkpoint=weights, input_size=48, output="features")

    def make(method: str, **options) -> TrainConfig:
        run = replace(
            plain_run,
            out=str(tmp_path / method),
            method=method,
            student=StudentConfig(name="test_vit", input_size=32, head="mlp"),
            teacher=None if method == "moco" else teacher,
            crops_per_image=2,
            epochs=6,
            batch_size=14,
            optimizer=OptimizerConfig(lr=0.05),
            schedule=ScheduleConfig(single_crop_ending=False),
            teacher_augment=AugmentConfig(preset="s2bnn"),
        )
        if method != "s2bnn":
            run = replace(run, contrast=ContrastConfig(queue_length=40, momentum=0.9))
        return replace(run, **options)

    return make


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_started_again_a_run_ends_in_the_same_bits(
    config_of, require_same_outcome, method
):
    config = config_of(method)
    reference = replace(config, out=config.out + "-reference")
    assert train(reference).num_steps == 9
    for step in (3, 7):
        with pytest.raises(Stop):
            train(config, StopAt(step))
    train(config)
    require_same_outcome(config, reference)
    last = load_checkpoint(config), load_checkpoint(reference)
    states = [state["auxiliary_model"] for state in last]
    if method == "s2bnn":
        assert states == [None, None]
        return
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert int(states[0]["oldest"]) == 3 * 30 % 40  # the keys of all crops of 3 passes


def load_checkpoint(config):
    path = sorted((Path(config.out) / "checkpoints").glob("*.pt"))[-1]
    return torch.load(path, weights_only=True)


def assert_close_runs(config, reference):
    (weights, expected) = (
        load_file(Path(run.out) / "model.safetensors") for run in (config, reference)
    )
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)
    states = [load_checkpoint(run)["auxiliary_model"] or {} for run in (config, reference)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_several_processes_train_like_one(config_of, method):
    """Odd batches, and one of a single image, which the second process has nothing of."""
    config = config_of(method)
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    train_together(replace(config, device=None), 2)
    assert_close_runs(config, reference)


def test_a_run_with_a_queue_goes_on_with_another_number_of_processes(config_of):
    config = config_of("s2bnn-both")
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    with pytest.raises(Stop):
        train(config, StopAt(4))
    train_together(replace(config, device=None), 2)
    assert_close_runs(config, reference)


def test_parts_of_a_step_add_up_to_the_whole(config_of):
    config = config_of("s2bnn-both")
    reference = replace(config, out=config.out + "-reference")
    train(reference)
    train(replace(config, accumulate_steps=3))
    assert_close_runs(config, reference)


@pytest.mark.parametrize("method", METHODS)
def test_a_binary_network_is_trained_in_two_steps(config_of, monkeypatch, method):
    monkeypatch.setattr(reactnet, "_WIDTHS", tuple(width // 8 for width in reactnet._WIDTHS))
    student = StudentConfig(name="reactnet_a_step1", input_size=32, head="mlp")
    first = config_of(method, student=student, optimizer=OptimizerConfig(name="adam", lr=0.001))
    train(first)
    second = replace(
        first,
        out=first.out + "-step2",
        student=replace(student, name="reactnet_a", checkpoint=first.out),
        optimizer=OptimizerConfig(name="adam", lr=1e-12, weight_decay=0.0),
    )
    train(second)
    # So small a rate moves nothing: what is left is where the second step started.
    for file in ("model.safetensors", "head.safetensors"):
        began, ended = (load_file(Path(run.out) / file) for run in (first, second))
        assert began.keys() == ended.keys()
        for name, value in ended.items():
            if "running" not in name and "num_batches" not in name:
                torch.testing.assert_close(value, began[name], atol=1e-9, rtol=1e-5)
    described = json.loads((Path(second.out) / "config.json").read_text())
    assert described["architecture"] == "reactnet_a"


REFUSED = [
    ({"crops_per_image": 3}, "needs two crops of an image in every pass"),
    ({"epochs": 5}, "the one at epoch 4 has 1; use an even number of epochs"),
    ({"schedule": ScheduleConfig(single_crop_ending=True)}, "leave out .*single_crop_ending"),
    ({"schedule": ScheduleConfig(warmup_epochs=2)}, "the one at epoch 0 has 1; use .* no warm-up"),
    ({"mixing": MixingConfig(mixup_alpha=1.0)}, "mixing: method .* compares whole crops"),
]


@pytest.mark.parametrize("method", ["s2bnn-both", "moco"])
@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_contrast_without_pairs_of_crops_is_refused(config_of, method, options, message):
    with pytest.raises(ConfigError, match=message):
        config_of(method, **options)


def test_pairs_are_the_default_of_contrast(config_of):
    config = config_of("moco", crops_per_image=None, schedule=ScheduleConfig())
    assert all_passes(config) == [Pass(0, 2), Pass(2, 2), Pass(4, 2)]
    filled = fill_defaults(config, num_images=15, num_crops=None)
    assert (filled.crops_per_image, filled.schedule.single_crop_ending) == (2, False)


def test_more_epochs_are_advised_that_pairs_of_crops_can_have(config_of):
    config = fill_defaults(config_of("moco"), num_images=15, num_crops=None)
    order = Order(images=np.arange(15), passes=all_passes(config), batch_size=14, seed=0)
    (advice,) = (said for said in odd_settings(config, order) if "--epochs" in said)
    assert int(re.search(r"--epochs (\d+)", advice)[1]) % 2 == 0


def test_settings_of_a_queue_are_refused_where_there_is_none(config_of):
    with pytest.raises(ConfigError, match=r"contrast: method s2bnn does not use it"):
        config_of("s2bnn", contrast=ContrastConfig(momentum=0.5))


@pytest.mark.parametrize("method", METHODS)
def test_classes_are_refused_where_there_are_none(config_of, method):
    with pytest.raises(ConfigError, match=r"classes: method .*gives embeddings, does not use it"):
        config_of(method, classes="dataset")


def test_the_crops_of_a_store_can_be_used_with_a_live_teacher(config_of, tmp_path):
    """Also where the store is of a teacher with other embeddings."""
    config = config_of("s2bnn-both")
    other = TeacherConfig(
        "test_vit", checkpoint=_weights_of("test_vit", tmp_path), output="features"
    )
    labels = LabelConfig(
        images=config.images,
        out=str(tmp_path / "store"),
        teacher=other,
        num_crops=4,
        device="cpu",
    )
    label(labels)
    stored = replace(
        config,
        store=labels.out,
        crop_source="stored",
        teacher_augment=NO_AUGMENT,
        crops_per_image=2,
        epochs=2,
    )
    assert train(stored).num_steps == 3


def _weights_of(name, folder):
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=7).state_dict(), path)
    return str(path)
