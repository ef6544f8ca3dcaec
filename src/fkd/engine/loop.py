"""The training loop: batch, targets, forward, loss, backward, step, log, checkpoint.

It is handed everything it calls and looks nothing up: which method is trained, where batches come
from and how a student is evaluated are decided by `fkd.training`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fkd.data.batches import Batch
from fkd.data.crop_sources import CropRequest
from fkd.engine.logging import Metrics
from fkd.engine.optim import set_learning_rate
from fkd.engine.order import Chunk, Order, StepInfo, step_seed
from fkd.engine.recorder import Recorder, count_crops
from fkd.engine.signals import StopSignals
from fkd.engine.state import TrainState

_AGREE_EVERY = 10  # steps between two questions whether another process was told to stop


class Method(Protocol):
    """What the loop needs of a method."""

    def targets(self, batch: Batch) -> Any:
        """What the student is trained against."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of the crops."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What happens in a run.

    Attributes:
        order: which images when.
        load: lists of view requests to their batches, in order.
        normalize: uint8 crops to the student's input.
        mix: (step, batch) to the batch with its crops mixed, or the batch itself.
        method: gives targets and loss.
        learning_rate: of the place of a step.
        evaluate: metrics of a model on the validation images; None without any.
        evaluate_every: passes between two evaluations; the last pass ends with one anyway.
        clip_grad: largest norm of the gradient; None does not clip.
        seed: of dropout and drop path.
    """

    order: Order
    load: Callable[[Iterable[Sequence[CropRequest]]], Iterator[Batch]]
    normalize: Callable[[Tensor], Tensor]
    mix: Callable[[int, Batch], Batch]
    method: Method
    learning_rate: Callable[[StepInfo], float]
    evaluate: Callable[[nn.Module], Metrics] | None
    evaluate_every: int
    clip_grad: float | None
    seed: int


def run(plan: LoopConfig, learner: TrainState, recorder: Recorder) -> None:
    """Train from the learner's step to the end.

    Raises:
        FKDError: an image, a label or the disk fails, or the loss is not finite.
        KeyboardInterrupt: SIGINT came (SystemExit: SIGTERM); a checkpoint was written first.
    """
    order, accelerator, optimizer = plan.order, learner.accelerator, learner.optimizer
    with StopSignals() as signals:
        batches = plan.load(chunk.requests for chunk in order.chunks(learner.step))
        while learner.step < order.num_steps:
            place = order.place(learner.step)
            lr = plan.learning_rate(place)
            set_learning_rate(optimizer, lr)
            learner.student.train()
            counted = torch.zeros(4, device=accelerator.device)
            for part in range(order.accumulate_steps):
                chunk = order.chunk(learner.step, part)
                counted += _learn(plan, learner, chunk, next(batches).to(accelerator.device))
            if plan.clip_grad is not None:
                accelerator.clip_grad_norm_(learner.student.parameters(), plan.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            learner.step += 1
            if learner.ema is not None:
                learner.ema.update(learner.module)
            recorder.trained(place, lr, accelerator.reduce(counted))
            if plan.evaluate is not None and _is_due(plan, place):
                learner.share_buffers()
                recorder.evaluated(place, plan.evaluate(learner.result))
            stopping = _told_to_stop(accelerator, signals, learner.step)
            recorder.checkpoint(now=place.ends_pass or stopping)
            if stopping:
                accelerator.wait_for_everyone()
                signals.leave()


def _is_due(plan: LoopConfig, place: StepInfo) -> bool:
    """Whether the student is evaluated after a step."""
    ends = place.number == len(plan.order.passes) - 1
    return place.ends_pass and (ends or (place.number + 1) % plan.evaluate_every == 0)


def _learn(plan: LoopConfig, learner: TrainState, chunk: Chunk, batch: Batch) -> Tensor:
    """Forward and backward of one chunk; what it counted, zeros for a filler.

    Processes exchange gradients in the last part of a step only.
    """
    torch.manual_seed(step_seed(plan.seed, learner.step, chunk.number))
    batch = plan.mix(learner.step, batch)
    images, targets = plan.normalize(batch.crops[0]), plan.method.targets(batch)
    accelerator = learner.accelerator
    with nullcontext() if chunk.last else accelerator.no_sync(learner.student):
        outputs = learner.student(images)
        loss = plan.method.loss(outputs, targets)
        accelerator.backward(loss * chunk.weight)
    return count_crops(loss, outputs, batch) * float(chunk.weight > 0)


def _told_to_stop(accelerator: Accelerator, signals: StopSignals, step: int) -> bool:
    """Whether any process was told to stop; all processes answer alike."""
    own = signals.requested is not None
    if accelerator.num_processes == 1:
        return own
    if step % _AGREE_EVERY:
        return False
    return bool(accelerator.reduce(torch.tensor(float(own), device=accelerator.device)))
