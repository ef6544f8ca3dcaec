"""Training runs of several methods side by side, of which a few steps at a time are measured.

They are the runs of `fkd train`: the same setup, loader and loop. Only the run folder is missing.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from accelerate import Accelerator

from fkd.analysis.stages import (
    StageClock,
    TimedBatch,
    TimedCutter,
    observed_loader,
    observed_step,
)
from fkd.data.batches import Batch
from fkd.engine.loop import LoopConfig, run
from fkd.engine.order import Order
from fkd.engine.recorder import Recorder
from fkd.engine.state import TrainState
from fkd.models.trial import try_training
from fkd.training.config import TrainConfig
from fkd.training.run import build_order, loop_config, open_batches
from fkd.training.setup import TrainSetup
from fkd.training.workers import count_workers, kind_of_workers, on_gpu

BATCHES_AHEAD = 2
"""Per worker that works ahead, as `load_batches` has it."""


@dataclass(frozen=True)
class Turn:
    """Some steps of a run.

    Attributes:
        steps: how many.
        num_crops: crops in all of them.
        seconds: all of them took.
        parts: seconds of each stage; none where the steps were not observed.
        beside: seconds of each stage of the loader in its workers; none where it works inline.
    """

    steps: int
    num_crops: int
    seconds: float
    parts: dict[str, float]
    beside: dict[str, float]


@dataclass(frozen=True)
class _PartOfRun(Order):
    """The order of a run that stops early.

    Attributes:
        until: its last step.
    """

    until: int = 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps up to there."""
        return self.until


class _Feed(Iterator[Batch]):
    """Batches on their way into the loop.

    Attributes:
        num_crops: in those that were taken.
        seconds: what they took, by stage of the loader.
    """

    def __init__(self, batches: Iterator[Batch], clock: StageClock | None = None) -> None:
        self.num_crops = 0
        self.seconds: dict[str, float] = {}
        self._batches = batches
        self._clock = clock

    def __next__(self) -> Batch:
        with nullcontext() if self._clock is None else self._clock.stage("wait"):
            batch = next(self._batches)
        self.num_crops += len(batch)
        if isinstance(batch, TimedBatch):
            for stage, seconds in batch.seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        return batch


class TimedRun:
    """One method in training.

    Attributes:
        method: its name.
        crops_per_image: m.

    Args:
        config: all settings.
        setup: what they describe, opened.
        accelerator: shared by all runs.
    """

    def __init__(self, config: TrainConfig, setup: TrainSetup, accelerator: Accelerator) -> None:
        assert config.crops_per_image is not None
        self.method, self.crops_per_image = config.method, config.crops_per_image
        self._config = config
        self._setup = setup
        self._whole = order = build_order(config, setup, accelerator)
        self._order = _PartOfRun(**{each.name: getattr(order, each.name) for each in fields(order)})
        preprocessing, owner = setup.card.preprocessing, f"student {setup.card.name}"
        try_training(setup.student, preprocessing, owner, order.fewest_crops)
        self._state = TrainState.build(
            setup.student, setup.method, accelerator, config.optimizer, None
        )
        self._recorder = Recorder(
            self._state,
            log_every=config.log_every,
            checkpoint_seconds=config.checkpoint_seconds,
            log=None,
            checkpoints=None,
            progress=None,
            resumed=None,
        )

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        device: torch.device = self._state.accelerator.device
        return device

    @property
    def num_workers(self) -> int:
        """Threads or processes of the loader, as `fkd train` has them."""
        return count_workers(self._config)

    def take_turn(self, num_workers: int, steps: int, *, observed: bool) -> Turn:
        """The next steps, after some that do not count, in which the loader gets going.

        Args:
            num_workers: of the loader; 0 for an inline one.
            steps: that count, at least.
            observed: whether to tell the stages apart.
        """
        config, setup = replace(self._config, num_workers=num_workers), self._setup
        device = self.device
        synchronize = None if device.type == "cpu" else partial(_synchronize, device)
        clock = StageClock(synchronize=synchronize) if observed else None
        loop = loop_config(config, setup, self._whole, device)
        with ExitStack() as opened:
            if observed:
                opened.enter_context(observed_loader())
                setup = replace(setup, cutter=TimedCutter(setup.cutter))
            loader = open_batches(config, setup, self._whole, self._state)
            batches = opened.enter_context(closing(loader))
            self._run(self._part(loop, _steps_ahead(config)), _Feed(batches))
            feed, steps = _Feed(batches, clock), _whole_rounds(steps, num_workers)
            loop = self._part(loop, steps)
            if clock is not None:
                loop = opened.enter_context(observed_step(loop, self._state, clock))
            started = _now(synchronize)
            self._run(loop, feed)
            seconds = _now(synchronize) - started
        parts = {} if clock is None else clock.seconds
        beside = feed.seconds if num_workers else {}
        if clock is not None and not num_workers:
            parts = _inline(parts, feed.seconds)
        return Turn(steps, feed.num_crops, seconds, parts, beside)

    def _part(self, loop: LoopConfig, steps: int) -> LoopConfig:
        """The settings for so many further steps."""
        order = replace(self._order, until=self._state.step + steps)
        order.step_info(self._state.step)  # counts the steps of all passes once, not in a step
        return replace(loop, order=order)

    def _run(self, loop: LoopConfig, batches: Iterator[Batch]) -> None:
        run(loop, self._state, self._recorder, batches)


def _steps_ahead(config: TrainConfig) -> int:
    """Steps until a loader that was just started is in its steady state."""
    num_workers = count_workers(config)
    if not num_workers:
        return 1
    if kind_of_workers(config) == "threads" and not on_gpu(config):
        return num_workers  # one burst
    return 1 + BATCHES_AHEAD * num_workers


def _whole_rounds(steps: int, num_workers: int) -> int:
    """So many steps, or more: threads build a batch each, then as many steps follow."""
    size = max(1, num_workers)
    return -(-steps // size) * size


def _inline(parts: dict[str, float], loader: dict[str, float]) -> dict[str, float]:
    """The stages of a step that waited for a loader in its own thread."""
    names = [*parts, *loader]
    joined = {name: parts.get(name, 0.0) + loader.get(name, 0.0) for name in names}
    return joined | {"wait": joined["wait"] - sum(loader.values())}


def _now(synchronize: partial[None] | None) -> float:
    if synchronize is not None:
        synchronize()
    return time.perf_counter()


def _synchronize(device: torch.device) -> None:
    torch.accelerator.synchronize(device)
