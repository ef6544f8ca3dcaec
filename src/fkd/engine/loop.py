"""The training loop: batch, targets, forward, loss, backward, step, log, checkpoint.

It is handed everything it calls and looks nothing up: which method is trained, where batches come
from and how a student is evaluated are decided by `fkd.training`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fkd.data.batches import Batch
from fkd.data.mixing import MixingConfig, sample_mix
from fkd.engine.logging import Metrics
from fkd.engine.optim import set_learning_rate
from fkd.engine.order import Chunk, Order, StepInfo, step_seed
from fkd.engine.recorder import Recorder, count_crops
from fkd.engine.schedule import ScheduleConfig, learning_rate
from fkd.engine.signals import StopSignals
from fkd.engine.state import TrainableMethod, TrainState

_AGREE_EVERY = 10  # steps between two exchanges on whether a process was told to stop


class Loop(Protocol):
    """What `run` asks about a run; `LoopConfig` answers it for classifiers."""

    @property
    def order(self) -> Order:
        """Which images in which step."""

    @property
    def evaluate(self) -> Callable[[nn.Module], Metrics] | None:
        """Metrics of a model on the validation images; None without any."""

    @property
    def clip_grad(self) -> float | None:
        """Largest norm of the gradient; None does not clip."""

    def learning_rate(self, info: StepInfo) -> float:
        """The rate of a step."""

    def evaluates_after(self, info: StepInfo) -> bool:
        """Whether the model is evaluated after a step."""

    def forward_backward(self, state: TrainState, chunk: Chunk, batch: Any) -> Tensor:
        """Add the gradient of one chunk; returns what the recorder counts, zeros for a filler."""

    def after_step(self, counted: Sequence[bool]) -> None:
        """Called after every optimizer step: which of its forward passes were no fillers."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What happens in a run that trains a classifier.

    Attributes:
        order: which images in which step.
        normalize: uint8 crops to the student's input.
        mixing: MixUp and CutMix.
        method: gives targets and losses.
        schedule: of the learning rate.
        peak_lr: the rate that the schedule starts from.
        epochs: of the whole run.
        evaluate: metrics of a model on the validation images; None without any.
        evaluate_every: passes between two evaluations; the last pass ends with one anyway.
        clip_grad: largest norm of the gradient; None does not clip.
        seed: of mixing, dropout and drop path.
    """

    order: Order
    normalize: Callable[[Tensor], Tensor]
    mixing: MixingConfig
    method: TrainableMethod
    schedule: ScheduleConfig
    peak_lr: float
    epochs: int
    evaluate: Callable[[nn.Module], Metrics] | None
    evaluate_every: int
    clip_grad: float | None
    seed: int

    def learning_rate(self, info: StepInfo) -> float:
        """The rate of a step."""
        epoch = info.epoch if self.schedule.per_step else info.of_pass.epoch
        return learning_rate(self.schedule, self.peak_lr, epoch, self.epochs)

    def evaluates_after(self, info: StepInfo) -> bool:
        """Whether the student is evaluated after a step."""
        return is_due(info, self.order, self.evaluate_every)

    def forward_backward(self, state: TrainState, chunk: Chunk, batch: Batch) -> Tensor:
        """Add the gradient of one chunk; returns its `count_crops`, zeros for a filler."""
        torch.manual_seed(step_seed(self.seed, state.step, chunk.number))
        batch = _mix(self.mixing, self.seed, state.step, batch)
        images, targets = self.normalize(batch.crops[0]), self.method.targets(batch)
        with gradients_of(state, chunk):
            outputs, auxiliary_loss = state.prepared(images, targets)
            loss = self.method.loss(outputs, targets)
            if auxiliary_loss is not None:
                loss = loss + auxiliary_loss
            state.accelerator.backward(loss * chunk.weight)
        return count_crops(loss, outputs, batch) * float(chunk.weight > 0)

    def after_step(self, counted: Sequence[bool]) -> None:
        """Let the method know."""
        self.method.after_step(counted)


def is_due(info: StepInfo, order: Order, every: int) -> bool:
    """Whether a step ends a pass after which a model is evaluated: every so many, and the last."""
    number = info.pass_number + 1
    return info.ends_pass and (number == len(order.passes) or number % every == 0)


def gradients_of(state: TrainState, chunk: Chunk) -> AbstractContextManager[Any]:
    """Around a forward and backward pass; processes exchange gradients in the last of a step."""
    return nullcontext() if chunk.last else state.accelerator.no_sync(state.prepared)


def run(config: Loop, state: TrainState, recorder: Recorder, batches: Iterator[Any]) -> None:
    """Train from the state's step to the end.

    Args:
        config: what happens.
        state: what is trained.
        recorder: keeps logs and checkpoints.
        batches: those of `config.order.chunks(state.step)`.

    Raises:
        FKDError: an image, a label or the disk fails, or the loss is not finite.
        KeyboardInterrupt: SIGINT came (SystemExit: SIGTERM); a checkpoint was written first.
    """
    order, accelerator = config.order, state.accelerator
    with StopSignals() as signals:
        while state.step < order.num_steps:
            info = order.step_info(state.step)
            lr = config.learning_rate(info)
            set_learning_rate(state.optimizer, lr)
            state.prepared.train()
            counts, counted = [], []
            for part in range(order.accumulate_steps):
                chunk = order.chunk(state.step, part)
                batch = next(batches).to(accelerator.device)
                counts.append(config.forward_backward(state, chunk, batch))
                counted.append(chunk.weight > 0)
            if config.clip_grad is not None:
                accelerator.clip_grad_norm_(state.prepared.parameters(), config.clip_grad)
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.step += 1
            config.after_step(counted)
            if state.ema is not None:
                state.ema.update(state.module.student)
            recorder.trained(info, lr, accelerator.reduce(torch.stack(counts).sum(0)))
            if config.evaluate is not None and config.evaluates_after(info):
                state.share_buffers()
                recorder.evaluated(info, config.evaluate(state.result))
            stopping = _is_stopping(accelerator, signals, state.step)
            recorder.checkpoint(now=info.ends_pass or stopping)
            if stopping:
                accelerator.wait_for_everyone()
                signals.leave()


def _mix(config: MixingConfig, seed: int, step: int, batch: Batch) -> Batch:
    """What a step trains on: the batch itself, or its crops mixed with each other."""
    crops = batch.crops[0]
    size = (crops.shape[2], crops.shape[3])
    mix = sample_mix(config, seed, step, len(batch), size, batch.crops_per_image)
    return batch if mix is None else batch.mixed(mix)


def _is_stopping(accelerator: Accelerator, signals: StopSignals, step: int) -> bool:
    """Whether any process was told to stop; the same answer in all processes."""
    told = signals.requested is not None
    if accelerator.num_processes == 1:
        return told
    if step % _AGREE_EVERY:
        return False
    return bool(accelerator.reduce(torch.tensor(float(told), device=accelerator.device)))
