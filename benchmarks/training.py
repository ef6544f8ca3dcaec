"""Training steps to be measured: ours as `fkd train` runs them, and those of the peers.

All students are the same network from the same seed, in channels-last memory, with the same
optimizer; they differ in where crops and targets come from.

    bare     crops and classes lie ready as normalized floats; the limit of any training
    ours     `fkd.engine.loop.run` itself with its loader, on stored crops and labels
    vanilla  torchvision's ImageFolder and DataLoader, F.cross_entropy
    kd       our engine and loader as well, with a teacher asked online about every crop
"""

from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from benchmarks.harness import Side, timed_steps
from benchmarks.workbench import Workbench
from fkd.data.batches import Batch
from fkd.engine.loop import CostEstimate, Method, run
from fkd.engine.optim import OptimizerConfig, build_optimizer
from fkd.engine.order import Order, StepInfo
from fkd.engine.recorder import Recorder
from fkd.engine.schedule import Pass
from fkd.engine.state import TrainState
from fkd.models.preprocessing import Preprocessing
from fkd.models.zoo import LoadedModel, load_model

NUM_CLASSES = 1000
_OPTIMIZER = OptimizerConfig(name="sgd", lr=0.01)
_REST = 0.3  # seconds in which the workers of a loader fill their queue
_NEVER = 1 << 30


def build_student(bench: Workbench) -> LoadedModel:
    """The student with fresh weights, always the same."""
    torch.manual_seed(0)
    return load_model(
        bench.scale.student, num_classes=NUM_CLASSES, input_size=bench.scale.crop_size
    )


def bare_side(bench: Workbench) -> Side:
    """Seconds per crop of a step on tensors that lie ready."""
    size, crops = bench.scale.batch_size, bench.scale.crop_size
    images = torch.randn(size, 3, crops, crops).contiguous(memory_format=torch.channels_last)
    batch = (images, torch.arange(size) % NUM_CLASSES)
    return _plain_side(bench, repeat(batch), rest=0.0)


def vanilla_side(bench: Workbench, batches: Iterator[tuple[Tensor, Tensor]]) -> Side:
    """Seconds per crop of plain training from a loader of normalized crops and classes."""
    return _plain_side(bench, batches, rest=_REST)


def _plain_side(bench: Workbench, batches: Iterator[tuple[Tensor, Tensor]], rest: float) -> Side:
    """The loop that everybody writes: the student against the classes."""
    student = build_student(bench).model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(_OPTIMIZER, student)

    def learn(done: Callable[[], None]) -> None:
        student.train()
        for _ in range(1 + bench.scale.steps):
            images, labels = next(batches)
            logits = student(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            done()

    return timed_steps(learn, bench.scale.batch_size, rest)


def engine_side(bench: Workbench, batches: Iterator[Batch], method: Method) -> Side:
    """Seconds per crop of our training loop: some steps, from batches that come without end."""
    loaded = build_student(bench)
    learner = TrainState.build(loaded.model, Accelerator(cpu=True), _OPTIMIZER, None)
    plan = _plan(bench, loaded.preprocessing, batches, method)

    def learn(done: Callable[[], None]) -> None:
        learner.step = 0
        run(plan, learner, _Recorder(learner, done))

    return timed_steps(learn, bench.scale.batch_size, _REST)


class _Recorder(Recorder):
    """Keeps what a run without files keeps, and says when a step is done."""

    def __init__(self, learner: TrainState, done: Callable[[], None]) -> None:
        super().__init__(
            learner,
            log_every=_NEVER,
            checkpoint_seconds=_NEVER,
            log=None,
            checkpoints=None,
            progress=None,
            state=None,
        )
        self._done = done

    def trained(self, place: StepInfo, lr: float, counted: Tensor) -> None:
        """As ever."""
        super().trained(place, lr, counted)
        self._done()


def _plan(
    bench: Workbench, preprocessing: Preprocessing, batches: Iterator[Batch], method: Method
) -> CostEstimate:
    """A run of some steps that takes its batches from the stream, whatever it asks for.

    So the loader works on between two measurements as it does between two steps.
    """
    size, steps = bench.scale.batch_size, 1 + bench.scale.steps
    return CostEstimate(
        order=Order(images=np.arange(steps * size), passes=[Pass(0, 1)], batch_size=size, seed=0),
        load=lambda requests: batches,
        normalize=preprocessing.normalize,
        mix=lambda step, batch: batch,
        method=method,
        learning_rate=lambda place: _OPTIMIZER.peak_lr,
        evaluate=None,
        evaluate_every=1,
        clip_grad=None,
        seed=0,
    )
