"""Defaults that follow the data, and warnings about runs that can hardly learn."""

import re
from dataclasses import replace

import numpy as np
import pytest

from fkd.data.mixing import MixingConfig
from fkd.data.sources import ImagesConfig
from fkd.engine.logging import Progress
from fkd.engine.optim import OptimizerConfig
from fkd.engine.order import Order
from fkd.engine.schedule import ScheduleConfig, plan_passes
from fkd.methods import METHODS, find_method
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.defaults import default_batch_size, fill_defaults, odd_settings
from fkd.training.run import train

_SINGLES = [name for name in METHODS if not find_method(name).needs_pairs]


def settings(method="vanilla", **options) -> TrainConfig:
    kind = find_method(method)
    needed = {
        "store": "labels" if kind.crop_source == "stored" or kind.reads_maps else None,
        "teacher": TeacherConfig("test_vit") if kind.needs_teacher else None,
        "mixing": MixingConfig(mixup_alpha=1.0 if kind.needs_mixing else 0.0),
        "student": StudentConfig(name="test_vit"),
        "images": ImagesConfig(root="images"),
        "out": "run",
        "method": method,
    }
    return TrainConfig(**(needed | options))


def order_of(config, num_images) -> Order:
    passes = plan_passes(config.epochs, config.crops_per_image, config.schedule)
    return Order(images=np.arange(num_images), passes=passes, batch_size=config.batch_size, seed=0)


def warnings_of(config, num_images, num_crops=None) -> list[str]:
    filled = fill_defaults(config, num_images, num_crops)
    return list(odd_settings(filled, order_of(filled, num_images)))


@pytest.mark.parametrize("method", _SINGLES)
def test_fresh_crops_are_one_per_image_and_stored_ones_four(method):
    """The papers of the methods with fresh crops have one; FKD's has four."""
    stored = find_method(method).crop_source == "stored"
    for num_crops in (1, 3, 4, 200):
        expected = min(4, num_crops) if stored else 1
        filled = fill_defaults(settings(method), 1000, num_crops if stored else None)
        assert filled.crops_per_image == expected


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(_SINGLES)))
def test_a_method_of_pairs_has_two_crops_per_image(method):
    config = settings(method, schedule=ScheduleConfig(single_crop_ending=False))
    assert fill_defaults(config, 1000, None).crops_per_image == 2


def test_a_method_with_fresh_crops_that_replays_stored_ones_has_four():
    config = settings("kd", crop_source="stored", store="labels")
    assert fill_defaults(config, 1000, 200).crops_per_image == 4


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(1, 32), (600, 32), (1500, 64), (4000, 128), (50_000, 1024), (1_281_167, 1024)],
)
def test_the_batch_follows_the_number_of_images(num_images, expected):
    assert default_batch_size(num_images) == expected
    assert fill_defaults(settings(), num_images, None).batch_size == expected


@pytest.mark.parametrize(
    ("options", "num_images", "lr"),
    [
        ({}, 1_281_167, 0.1),
        ({}, 600, 0.1 * (32 / 1024) ** 0.5),
        ({"batch_size": 256}, 600, 0.05),
        ({"batch_size": 4096}, 1_281_167, 0.1),
        ({"optimizer": OptimizerConfig(name="adamw")}, 1_281_167, 0.002),
        ({"optimizer": OptimizerConfig(name="adamw")}, 600, 0.002 * (32 / 1024) ** 0.5),
        ({"student": StudentConfig(name="test_vit", pretrained=True)}, 1_281_167, 0.01),
        ({"student": StudentConfig(name="test_vit", checkpoint="run")}, 600, 0.01),
        ({"optimizer": OptimizerConfig(lr=0.7)}, 600, 0.7),
    ],
)
def test_the_learning_rate_follows_the_batch_unless_it_is_given(options, num_images, lr):
    filled = fill_defaults(settings(**options), num_images, None)
    assert filled.optimizer.lr == pytest.approx(lr)


def test_what_is_given_stays():
    given = settings(
        "fkd",
        crops_per_image=7,
        batch_size=5,
        optimizer=OptimizerConfig(lr=1.0),
        schedule=ScheduleConfig(single_crop_ending=True),
    )
    assert fill_defaults(given, 600, 4) == given


@pytest.mark.parametrize("method", _SINGLES)  # in one epoch there is no pair
@pytest.mark.parametrize(("num_images", "epochs"), [(600, 1), (600, 5), (3, 2), (50_000, 1)])
def test_a_run_of_few_steps_is_told_what_gives_it_enough(method, num_images, epochs):
    config = settings(method, epochs=epochs, batch_size=1024)
    (said,) = warnings_of(config, num_images, 200)
    num_steps = order_of(fill_defaults(config, num_images, 200), num_images).num_steps
    assert f"only {num_steps} optimizer step" in said
    options = dict(re.findall(r"--(\w+) (\d+)", said))
    assert "epochs" in options
    for name, value in options.items():
        advised = fill_defaults(replace(config, **{name: int(value)}), num_images, 200)
        assert order_of(advised, num_images).num_steps >= 100
    assert int(options.get("batch_size", 16)) >= 16


def test_a_run_of_enough_steps_is_told_nothing():
    assert warnings_of(settings(), 600) == []


@pytest.mark.parametrize("start", [{"pretrained": True}, {"checkpoint": "run"}, {"name": "runs/a"}])
@pytest.mark.parametrize(("name", "lr", "advised"), [("sgd", 0.1, 0.01), ("adamw", 0.002, 0.0002)])
def test_a_rate_that_trained_weights_do_not_survive_is_told(
    start, name, lr, advised, tmp_path, monkeypatch
):
    (tmp_path / "runs" / "a").mkdir(parents=True)  # a model folder may be the name
    monkeypatch.chdir(tmp_path)

    def run(lr):
        student = StudentConfig(**{"name": "test_vit", **start})
        return warnings_of(
            settings(student=student, optimizer=OptimizerConfig(name=name, lr=lr)), 600
        )

    (said,) = run(lr)
    assert f"optimizer.lr {lr:g}" in said
    assert f"--optimizer.lr {advised:g}" in said
    assert run(advised) == run(None) == []


class Listener(Progress):
    def __init__(self):
        self.warnings, self.description = [], ""

    def warn(self, text):
        self.warnings.append(text)

    def begin(self, step, num_steps, description):
        self.description = description


def test_a_run_says_its_steps_before_it_starts(plain_run):
    listener = Listener()
    train(replace(plain_run, batch_size=1024, epochs=1, log_every=20), listener)
    assert "1 step of 1,024 crops" in listener.description
    assert listener.warnings[0].startswith("the run has only 1 optimizer step,")
