"""Passes and learning rates against the authors' loops and closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fkd.engine.schedule import Pass, ScheduleConfig, learning_rate, plan_passes
from fkd.errors import ConfigError


@pytest.mark.parametrize(
    ("crops_per_image", "warmup", "multi_crop", "single_crop_ending", "passes"),
    [
        (1, 0, 299, 1, 300),
        (4, 0, 74, 4, 78),
        (8, 0, 37, 4, 41),
        (16, 0, 18, 12, 30),
        (32, 0, 9, 12, 21),
        (7, 0, 42, 6, 48),
        (4, 5, 73, 3, 81),
    ],
)
def test_passes_of_300_epochs_are_those_of_the_official_loops(
    crops_per_image, warmup, multi_crop, single_crop_ending, passes
):
    plan = plan_passes(300, crops_per_image, ScheduleConfig(warmup_epochs=warmup))
    assert len(plan) == passes
    middle = plan[warmup : warmup + multi_crop]
    assert {of_pass.crops_per_image for of_pass in middle} == {crops_per_image}
    assert plan[:warmup] == [Pass(epoch, 1) for epoch in range(warmup)]
    assert plan[warmup + multi_crop :] == [
        Pass(epoch, 1) for epoch in range(300 - single_crop_ending, 300)
    ]


@given(
    epochs=st.integers(1, 60),
    crops_per_image=st.integers(1, 20),
    warmup=st.integers(0, 10),
    ending=st.booleans(),
)
def test_passes_cover_every_epoch_once(epochs, crops_per_image, warmup, ending):
    config = ScheduleConfig(warmup_epochs=min(warmup, epochs), single_crop_ending=ending)
    covered = [
        position
        for p in plan_passes(epochs, crops_per_image, config)
        for position in range(p.epoch, p.epoch + p.crops_per_image)
    ]
    assert covered == list(range(epochs))


def test_the_authors_adamw_recipe_has_its_published_rate_in_the_middle():
    config = ScheduleConfig(warmup_epochs=5, warmup_lr=1e-5, min_lr=1e-5)
    assert learning_rate(config, 0.002, 150, 300) == pytest.approx(0.001005, rel=1e-12)


def test_cosine_linear_and_step_follow_their_formulas():
    for epoch in (0, 4, 119, 120, 239, 240, 296):
        cosine = 0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 300))
        assert learning_rate(ScheduleConfig(), 0.1, epoch, 300) == pytest.approx(cosine)
        linear = 0.1 * (1 - epoch / 300)
        assert learning_rate(ScheduleConfig(name="linear"), 0.1, epoch, 300) == pytest.approx(
            linear
        )
        step = 0.1 * 0.1 ** ((epoch >= 120) + (epoch >= 240))
        assert learning_rate(ScheduleConfig(name="step"), 0.1, epoch, 300) == pytest.approx(step)


def test_warm_up_rises_evenly_from_its_own_rate_to_the_peak():
    config = ScheduleConfig(warmup_epochs=5, warmup_lr=0.01)
    rates = [learning_rate(config, 0.11, epoch, 100) for epoch in range(5)]
    assert rates == pytest.approx([0.01, 0.03, 0.05, 0.07, 0.09])


def test_milestones_are_shares_or_epochs():
    config = ScheduleConfig(name="step", milestones=(100, 180))
    for epoch in (0, 99, 100, 179, 180):
        expected = 0.01 * 0.1 ** ((epoch >= 100) + (epoch >= 180))
        assert learning_rate(config, 0.01, epoch, 180) == pytest.approx(expected)


def test_a_curve_may_begin_after_the_warm_up():
    """ReLabel's: from 0 to the peak in 5 epochs, then a whole half-wave over the rest."""
    config = ScheduleConfig(warmup_epochs=5, warmup_lr=0.0, after_warmup=True, per_step=True)
    for epoch in (0.0, 2.5, 5.0, 152.5, 300.0):
        rest = 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 295))
        expected = 0.1 * epoch / 5 if epoch < 5 else 0.1 * rest
        assert learning_rate(config, 0.1, epoch, 300) == pytest.approx(expected)


def test_rates_end_at_the_smallest_rate():
    for name in ("cosine", "linear"):
        config = ScheduleConfig(name=name, min_lr=0.003)
        assert learning_rate(config, 0.1, 50, 50) == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "sawtooth"}, "schedule.name"),
        ({"warmup_epochs": -1}, "schedule.warmup_epochs"),
        ({"min_lr": -1.0}, "schedule.min_lr"),
        ({"milestones": (0.5,)}, "schedule.milestones: schedule cosine does not use it"),
        ({"name": "linear", "milestones": (0.5,)}, "milestones: schedule linear does not use"),
        ({"name": "step", "min_lr": 1e-5}, "schedule.min_lr: schedule step does not use it"),
        (
            {"name": "step", "warmup_epochs": 1, "after_warmup": True},
            "schedule.after_warmup: schedule step does not use it",
        ),
        ({"warmup_lr": 0.0}, "schedule.warmup_lr: a schedule without warmup_epochs does not use"),
    ],
)
def test_impossible_schedules_are_refused_by_name(arguments, field):
    with pytest.raises(ConfigError, match=field):
        ScheduleConfig(**arguments)


def test_impossible_lengths_are_refused():
    with pytest.raises(ConfigError, match="warmup_epochs is 5, but the run has 4"):
        plan_passes(4, 1, ScheduleConfig(warmup_epochs=5))
    with pytest.raises(ConfigError, match="at least 1"):
        plan_passes(0, 1, ScheduleConfig())
    with pytest.raises(ConfigError, match="at least 1"):
        plan_passes(1, 0, ScheduleConfig())
