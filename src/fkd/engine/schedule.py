"""How a run is cut into passes, and which learning rate each pass has.

Epochs count *crops*: in one epoch every image is seen once. A pass goes over the images once, with
m crops of each, and so is worth m epochs. After the warm-up (single crops) come multi-crop passes;
the last epochs are again single-crop passes, the "fine-grained" ending.

    E    m   multi-crop passes   single-crop ending   passes
    300  1   299                 1                    300
    300  4   74                  4                    78
    300  8   37                  4                    41

The learning rate is a function of the epoch at which a pass starts, so it is a staircase m times
coarser than usual, the "serrated" curve; it is not scaled by m.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3, and the authors' training loops.
Differs: the authors' ViT script runs the ending one epoch ahead of its own curve; here every epoch
has the rate of its own epoch.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fkd.checks import refuse_unused, require_at_least, require_one_of, require_whole
from fkd.errors import ConfigError

Curve = Literal["cosine", "linear", "step"]


@dataclass(frozen=True)
class Pass:
    """One pass over the images.

    Attributes:
        epoch: epochs (crops seen of every image) before this pass.
        crops_per_image: crops of every image in this pass.
    """

    epoch: int
    crops_per_image: int


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate falls, and which epochs use single crops.

    Attributes:
        name: shape of the curve; step multiplies by 0.1 at each milestone.
        warmup_epochs: first epochs, with single crops and a rising rate; the paper uses 5 for
            transformers and AdamW, 0 for plain SGD.
        warmup_lr: rate at the start of the warm-up.
        min_lr: rate that cosine and linear end at; the paper's AdamW recipe uses 1e-5. Not of step.
        after_warmup: begin the curve at the end of the warm-up; otherwise the warm-up replaces its
            beginning, as in the paper.
        milestones: where step drops: epochs, or shares of all epochs where below 1 (0.4 and 0.8 are
            120 and 240 of 300). Of no other curve.
        single_crop_ending: train the last epochs, at most crops_per_image, with one crop per image
            in a batch, as the authors do; by default, unless the method compares crops in pairs.
        per_step: follow the curve at every step instead of holding the rate through a pass.
    """

    name: Curve = "cosine"
    warmup_epochs: int = 0
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    after_warmup: bool = False
    milestones: tuple[float, ...] = (0.4, 0.8)
    single_crop_ending: bool | None = None
    per_step: bool = False

    def __post_init__(self) -> None:
        require_one_of(Curve, "schedule.name", self.name)
        require_whole(0, "schedule.warmup_epochs", self.warmup_epochs)
        for name in ("warmup_lr", "min_lr"):
            require_at_least(0, f"schedule.{name}", getattr(self, name))
        unused = {"min_lr", "after_warmup"} if self.name == "step" else {"milestones"}
        refuse_unused(self, unused, prefix="schedule.", user=f"schedule {self.name}")
        if self.warmup_epochs == 0:
            user = "a schedule without warmup_epochs"
            refuse_unused(self, {"warmup_lr", "after_warmup"}, prefix="schedule.", user=user)


def plan_passes(epochs: int, crops_per_image: int, config: ScheduleConfig) -> list[Pass]:
    """The passes of a run, in order; they hold exactly `epochs` epochs.

    Raises:
        ConfigError: there are no epochs, no crops, or the warm-up is longer than the run.
    """
    require_whole(1, "epochs", epochs)
    require_whole(1, "crops_per_image", crops_per_image)
    warmup = config.warmup_epochs
    if warmup > epochs:
        raise ConfigError(f"schedule.warmup_epochs is {warmup}, but the run has {epochs} epochs")
    passes = [Pass(epoch, 1) for epoch in range(warmup)]
    for epoch in range(warmup, epochs, crops_per_image):
        if config.single_crop_ending is not False and epoch >= epochs - crops_per_image:
            passes += [Pass(last, 1) for last in range(epoch, epochs)]
            break
        passes.append(Pass(epoch, min(crops_per_image, epochs - epoch)))
    return passes


def learning_rate(config: ScheduleConfig, peak: float, epoch: float, epochs: int) -> float:
    """The rate at an epoch (with per_step, a fraction of it) of a run of `epochs` epochs."""
    if epoch < config.warmup_epochs:
        return config.warmup_lr + (peak - config.warmup_lr) * epoch / config.warmup_epochs
    if config.name == "step":
        drops = [m * epochs if m < 1.0 else m for m in config.milestones]
        return peak * 0.1 ** sum(epoch >= drop for drop in drops)
    first = config.warmup_epochs if config.after_warmup else 0
    done = (epoch - first) / max(epochs - first, 1)
    left = 1.0 - done if config.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.min_lr + (peak - config.min_lr) * left
