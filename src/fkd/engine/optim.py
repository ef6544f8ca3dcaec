"""Optimizers by name, through timm's factory."""

import difflib
from dataclasses import dataclass

import torch
from timm.optim import (  # type: ignore[attr-defined]
    create_optimizer_v2,
    get_optimizer_info,
    list_optimizers,
)
from torch import nn

from fkd.checks import refuse_unused, require_at_least, require_positive
from fkd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer of the student.

    Attributes:
        name: sgd, adamw, or another optimizer of timm (`timm.optim.list_optimizers()`).
        lr: peak learning rate. By default, at 1,024 crops per step, 0.1 for sgd and 0.002 for
            others (the paper's), less by the root of a smaller batch_size, and for a student that
            starts from trained weights at most a tenth of these. A given rate is not scaled.
        momentum: of sgd and the other optimizers that have one.
        nesterov: Nesterov's momentum; of sgd.
        weight_decay: by default 1e-4 for sgd, 0.05 for others.
        decay_all: also decay biases and normalization layers; by default yes for sgd, as the
            paper's recipes do, and no for others.
    """

    name: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float | None = None
    decay_all: bool | None = None

    def __post_init__(self) -> None:
        require_positive("optimizer.lr", self.lr)
        require_at_least(0, "optimizer.weight_decay", self.weight_decay)
        known = [str(name) for name in list_optimizers()]
        if self.name not in known:
            close = difflib.get_close_matches(self.name, known) or ["sgd", "adamw"]
            raise ConfigError(
                f"optimizer.name {self.name!r} is unknown; did you mean {' or '.join(close)}?"
            )
        unused = set() if get_optimizer_info(self.name).has_momentum else {"momentum"}
        unused |= set() if self.name == "sgd" else {"nesterov"}
        refuse_unused(self, unused, prefix="optimizer.", user=f"optimizer {self.name}")

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule starts from, by default that of 1,024 crops."""
        return self.lr if self.lr is not None else (0.1 if self.name == "sgd" else 0.002)


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters.

    Raises:
        ConfigError: timm cannot build it here, e.g. it needs another package.
    """
    plain_sgd = config.name == "sgd" and not config.nesterov
    decay_all = config.name == "sgd" if config.decay_all is None else config.decay_all
    default_decay = 1e-4 if config.name == "sgd" else 0.05
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt="momentum" if plain_sgd else config.name,  # timm's "sgd" is Nesterov's
            lr=config.peak_lr,
            weight_decay=default_decay if config.weight_decay is None else config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not decay_all,
        )
    except (ImportError, AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.name {config.name!r} cannot be used: {error}") from error
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the same rate, times its own scale where timm set one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
