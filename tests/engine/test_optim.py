"""Optimizers by name."""

import pytest
import timm
import torch

from fkd.engine.optim import OptimizerConfig, build_optimizer, set_learning_rate
from fkd.errors import ConfigError


@pytest.fixture(scope="module")
def model():
    return timm.create_model("test_resnet", num_classes=3)


def test_sgd_is_the_papers_unless_asked_otherwise(model):
    optimizer = build_optimizer(OptimizerConfig(), model)
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[-1]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)
    assert not group["nesterov"]
    nesterov = build_optimizer(OptimizerConfig(nesterov=True), model)
    assert nesterov.param_groups[-1]["nesterov"]


def test_adamw_has_the_papers_defaults(model):
    optimizer = build_optimizer(OptimizerConfig(name="adamw"), model)
    group = optimizer.param_groups[-1]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["eps"]) == (0.002, 0.05, 1e-8)
    assert group["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("options", [{"name": "adamw"}, {"decay_all": False}])
def test_weight_decay_spares_biases_and_norms_in_adamw_and_where_told(model, options):
    spared, decayed = build_optimizer(OptimizerConfig(**options), model).param_groups
    assert all(p.ndim <= 1 for p in spared["params"])
    assert spared["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])


@pytest.mark.parametrize("options", [{}, {"name": "adamw", "decay_all": True}])
def test_weight_decay_has_everything_in_sgd_as_in_the_papers_code(model, options):
    groups = build_optimizer(OptimizerConfig(weight_decay=0.3, **options), model).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3]


def test_the_rate_reaches_every_group(model):
    optimizer = build_optimizer(OptimizerConfig(), model)
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_momentum_is_used_where_the_optimizer_has_one(model):
    for name in ("sgd", "rmsprop"):
        optimizer = build_optimizer(OptimizerConfig(name=name, lr=0.1, momentum=0.5), model)
        assert optimizer.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adamww"}, "optimizer.name 'adamww' is unknown; did you mean adamw"),
        ({"lr": 0.0}, "optimizer.lr must be above 0 and finite, got 0.0"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay must be at least 0, got -1.0"),
        ({"name": "adamw", "momentum": 0.8}, "optimizer.momentum: optimizer adamw does not use it"),
        ({"name": "adamw", "nesterov": True}, "optimizer.nesterov: optimizer adamw does not use"),
        ({"name": "rmsprop", "nesterov": True}, "nesterov: optimizer rmsprop does not use it"),
    ],
)
def test_impossible_settings_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**arguments)
