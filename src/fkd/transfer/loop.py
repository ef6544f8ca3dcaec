"""What the engine's loop asks about the training of a detector."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fkd.engine.logging import Metrics
from fkd.engine.loop import gradients_of, is_due
from fkd.engine.order import Chunk, Order, StepInfo, step_seed
from fkd.engine.recorder import Measure
from fkd.engine.schedule import Pass, ScheduleConfig, learning_rate
from fkd.engine.state import TrainState
from fkd.transfer.batches import DetectionBatch, DetectionCutter
from fkd.transfer.config import TransferConfig
from fkd.transfer.measuring import measure_detector
from fkd.transfer.setup import DetectionSetup

_LOSSES = {
    "loss_classifier": "loss_class",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
    "loss_objectness": "loss_objectness",
    "loss_rpn_box_reg": "loss_proposal",
}
"""Names that torchvision gives the parts of the loss, and those of metrics.jsonl."""
_WARMUP_FROM = 0.001  # share of the learning rate in the first step


class DetectionMethod:
    """What the engine asks of a method; a detector computes its losses itself."""

    auxiliary_model: nn.Module | None = None

    def targets(self, batch: Any) -> None:
        """None: they are inputs of the detector."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The sum of the losses."""
        return torch.stack(list(outputs.values())).sum()

    def auxiliary_loss(self, outputs: Any, targets: Any) -> None:
        """None."""

    def after_step(self, counted: Sequence[bool]) -> None:
        """Nothing."""


class DetectionLoop:
    """What the engine's loop asks about a run; see `fkd.engine.loop.Loop`."""

    def __init__(
        self, config: TransferConfig, setup: DetectionSetup, accelerator: Accelerator
    ) -> None:
        assert config.epochs is not None
        assert config.batch_size is not None
        self._config = config
        self._method = DetectionMethod()
        self.clip_grad = config.clip_grad
        self.order = Order(
            images=np.array(setup.data.chosen, np.int64),
            passes=[Pass(epoch, 1) for epoch in range(config.epochs)],
            batch_size=config.batch_size,
            seed=config.seed,
            world_size=accelerator.num_processes,
            rank=accelerator.process_index,
            accumulate_steps=config.accumulate_steps,
        )
        self.cutter = DetectionCutter(
            coco=setup.data.train,
            masks=config.task == "segmentation",
            training=True,
            flip=config.flip,
            seed=config.seed,
        )
        self.evaluate: Callable[[nn.Module], Metrics] | None = None
        if setup.data.val is not None:
            self.evaluate = partial(measure_detector, config, setup, setup.data.val, accelerator)

    def learning_rate(self, info: StepInfo) -> float:
        """The preset's staircase, below a linear warm-up in the first steps."""
        return scheduled_rate(self._config, info.of_pass.epoch, self._step_of(info))

    def evaluates_after(self, info: StepInfo) -> bool:
        """After every `val_every`-th pass, and the last."""
        return is_due(info, self.order, self._config.val_every)

    def forward_backward(self, state: TrainState, chunk: Chunk, batch: DetectionBatch) -> Tensor:
        """Add the gradient of one chunk; counts the losses and images, zeros for a filler."""
        torch.manual_seed(step_seed(self._config.seed, state.step, chunk.number))
        with gradients_of(state, chunk):
            losses, _ = state.prepared(batch.inputs(), None)
            loss = self._method.loss(losses, None)
            state.accelerator.backward(loss * chunk.weight)
        return _count(loss, losses, len(batch)) * float(chunk.weight > 0)

    def after_step(self, counted: Sequence[bool]) -> None:
        """Nothing."""

    def _step_of(self, info: StepInfo) -> int:
        """All passes have as many steps."""
        return info.pass_number * info.num_steps + info.step


def scheduled_rate(config: TransferConfig, epoch: int, step: int) -> float:
    """The learning rate of a step: divided by ten at every milestone, rising in the warm-up.

    The warm-up rises from a thousandth in equal steps, as torchvision's reference has it.

    Args:
        config: with its defaults filled in.
        epoch: that the step belongs to.
        step: of the run.
    """
    assert config.epochs is not None
    assert config.warmup_steps is not None
    steps = ScheduleConfig(name="step", milestones=config.milestones or ())
    rate = learning_rate(steps, config.optimizer.peak_lr, epoch, config.epochs)
    if step >= config.warmup_steps:
        return rate
    return rate * (_WARMUP_FROM + (1.0 - _WARMUP_FROM) * step / config.warmup_steps)


def _count(loss: Tensor, losses: dict[str, Tensor], images: int) -> Tensor:
    """Float32: the loss and its parts summed over images, 0 for a part that is none; images."""
    zero = torch.zeros_like(loss)
    parts = [losses.get(name, zero) for name in _LOSSES]
    sums = torch.stack([loss, *parts]).detach().float() * images
    return torch.cat([sums, sums.new_tensor([float(images)])])


def _describe_images(counts: Sequence[float], seconds: float) -> Metrics:
    loss, *parts, images = counts
    named = dict(zip(_LOSSES.values(), parts, strict=True))
    shown = {name: value / images for name, value in named.items() if name in _SHOWN or value}
    return {"loss": loss / images, **shown, "images_per_second": images / seconds}


_SHOWN = frozenset(_LOSSES.values()) - {"loss_mask"}  # which Faster R-CNN has not
IMAGES = Measure(len(_LOSSES) + 2, _describe_images)
"""What `_count` counts."""
