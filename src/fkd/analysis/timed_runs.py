"""Training runs of several methods side by side, of which a few steps at a time are measured.

They are the runs of `fkd train`: the same setup, loader and loop. Only the run folder is missing,
and what a label store says where the user gives none (`fkd.analysis.random_labels`).
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from fkd.analysis.random_labels import Sample, read_sample, write_random_labels, write_random_maps
from fkd.analysis.stages import (
    StageClock,
    TimedBatch,
    TimedCutter,
    observed_loader,
    observed_step,
)
from fkd.analysis.time_config import METHODS_OF_FIGURE_5, TimeConfig, TimeProgress
from fkd.data.batches import Batch
from fkd.data.sources import ImageSource, open_source
from fkd.data.subset import labeled_part
from fkd.engine.accelerators import start_accelerator
from fkd.engine.loop import LoopConfig, run
from fkd.engine.optim import OptimizerConfig
from fkd.engine.order import Order
from fkd.engine.recorder import Recorder
from fkd.engine.schedule import ScheduleConfig
from fkd.engine.state import TrainState
from fkd.errors import ConfigError
from fkd.models.trial import try_training
from fkd.store import LabelStore
from fkd.training.config import TrainConfig
from fkd.training.defaults import default_batch_size
from fkd.training.run import build_order, loop_config, open_batches
from fkd.training.setup import TrainData, TrainSetup, build_setup
from fkd.training.workers import count_workers, kind_of_workers, on_gpu

_M = (1, 2, 4, 8)  # crops per image of the paper's figure
_STORED_CROPS = 200  # of each image, in a store made here; as in the paper
_LEARNING_RATE = 1e-3  # small, as random labels are learned: no loss may become infinite
_BATCHES_AHEAD = 2  # per worker that works ahead, as `load_batches` has it
_PLAIN_CLASSES = 1000  # of labels made here, where nothing else says how many


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


def open_runs(
    config: TimeConfig, folder: Path, progress: TimeProgress
) -> tuple[list[TimedRun], int]:
    """The runs of all methods, on the same images, and how many images there are.

    Args:
        config: what to measure.
        folder: empty; for label stores that are made here.
        progress: told what is done and what is left out.

    Raises:
        FKDError: as `fkd train`.
    """
    store, maps = (
        None if path is None else LabelStore.open(path) for path in (config.store, config.maps)
    )
    images = open_source(config.images)
    for labels in (store, maps):
        images = images if labels is None else labeled_part(images, labels)
    batch_size = _batch_size(config, len(images))
    wanted = max(batch_size, config.sampled_images // batch_size * batch_size)
    sample = read_sample(images, wanted)
    if sample.num_unreadable:
        progress.warn(f"{sample.num_unreadable} of {wanted} images are unreadable and left out")
    opener = _Opener(config, images, sample, batch_size, folder)
    return list(chain.from_iterable(opener.open(store, maps, progress))), len(images)


class _Opener:
    """Opens the run of each method.

    Args:
        config: what to measure.
        images: those that the stores are of.
        sample: those to train on.
        batch_size: crops per step.
        folder: for stores that are made here.
    """

    def __init__(
        self,
        config: TimeConfig,
        images: ImageSource,
        sample: Sample,
        batch_size: int,
        folder: Path,
    ) -> None:
        self._config = config
        self._images = images
        self._sample = sample
        self._batch_size = batch_size
        self._folder = folder
        self._accelerator = start_accelerator(config.device, config.amp)

    def open(
        self, store: LabelStore | None, maps: LabelStore | None, progress: TimeProgress
    ) -> Iterator[list[TimedRun]]:
        """The runs of one method after the other, in the order of the figure."""
        methods = self._methods(progress)
        runs: dict[str, list[TimedRun]] = {}
        names = next((s.class_names for s in (store, maps) if s is not None), None)
        if "kd" in methods:
            setup_config, data = self._settings("kd", 1, None), self._without_labels()
            setup = build_setup(setup_config, data, self._accelerator.device)
            runs["kd"] = [TimedRun(setup_config, setup, self._accelerator)]
            names = names or tuple(setup.class_names)
        names = names or tuple(self._images.class_names or _numbered_names())
        if "vanilla" in methods:
            runs["vanilla"] = [self._run("vanilla", 1, self._without_labels())]
        if "relabel" in methods:
            runs["relabel"] = [self._run("relabel", 1, self._maps(maps, names, progress))]
        if "fkd" in methods:
            data = self._labels(store, names, progress)
            runs["fkd"] = [self._run("fkd", m, data) for m in self._crops_per_image(data)]
        for method in METHODS_OF_FIGURE_5:
            yield runs.get(method, [])

    def _methods(self, progress: TimeProgress) -> list[str]:
        """Those that were asked for, or all that there is something for."""
        if self._config.methods is not None:
            return list(self._config.methods)
        missing = {}
        if self._config.teacher is None:
            missing["kd"] = "needs --teacher.name"
        if self._images.class_names is None:
            missing["vanilla"] = f"needs classes, which {self._images.root} has not"
        for method, reason in missing.items():
            progress.remark(f"{method} is left out: it {reason}")
        return [method for method in METHODS_OF_FIGURE_5 if method not in missing]

    def _crops_per_image(self, data: TrainData) -> list[int]:
        assert data.store is not None
        given = self._config.crops_per_image
        if given is not None:
            return sorted(set(given))
        return [m for m in _M if m <= data.store.num_crops]

    def _without_labels(self) -> TrainData:
        return TrainData(self._sample.source, None)

    def _labels(
        self, store: LabelStore | None, names: tuple[str, ...], progress: TimeProgress
    ) -> TrainData:
        if store is not None:
            return TrainData(labeled_part(self._images, store), store)
        num_crops = max((_STORED_CROPS, *(self._config.crops_per_image or ())))
        made = write_random_labels(self._folder / "labels", self._sample, names, num_crops)
        progress.remark(
            f"labels of {num_crops} crops of {len(made):,} images are made up (ms:5 of "
            f"{len(names):,} classes): what they say takes no time; --store takes yours"
        )
        return TrainData(self._sample.source, made)

    def _maps(
        self, maps: LabelStore | None, names: tuple[str, ...], progress: TimeProgress
    ) -> TrainData:
        if maps is not None:
            return TrainData(labeled_part(self._images, maps), maps)
        made = write_random_maps(self._folder / "maps", self._sample, names)
        progress.remark(
            f"label maps of {len(made):,} images are made up (15 x 15 cells, 5 of {len(names):,} "
            "classes each): --maps takes yours"
        )
        return TrainData(self._sample.source, made)

    def _run(self, method: str, m: int, data: TrainData) -> TimedRun:
        path = None if data.store is None else str(data.store.path)
        config = self._settings(method, m, path)
        setup = build_setup(config, data, self._accelerator.device)
        return TimedRun(config, self._on_sample(setup, data), self._accelerator)

    def _on_sample(self, setup: TrainSetup, data: TrainData) -> TrainSetup:
        """The setup for the images of the sample, which are all or some of those of the data."""
        sampled = {self._sample.source.key(i) for i in range(len(self._sample.source))}
        chosen = [i for i in setup.chosen.tolist() if data.images.key(i) in sampled]
        if not chosen:
            raise ConfigError(f"store: {data.images.root} has no readable image with labels")
        return replace(setup, chosen=np.array(chosen, np.int64))

    def _settings(self, method: str, m: int, store: str | None) -> TrainConfig:
        config = self._config
        return TrainConfig(
            out=str(self._folder / "run"),
            images=config.images,
            student=config.student,
            method=method,
            store=store,
            teacher=config.teacher if method == "kd" else None,
            crops_per_image=m,
            epochs=m * most_steps(config),  # a pass has one step at least
            batch_size=self._batch_size,
            optimizer=OptimizerConfig(lr=_LEARNING_RATE),
            schedule=ScheduleConfig(single_crop_ending=False),  # every step has m crops of an image
            amp=config.amp,
            device=config.device,
            num_workers=config.num_workers,
            workers=config.workers,
        )


def most_steps(config: TimeConfig) -> int:
    """No run makes more steps."""
    num_workers = config.num_workers or os.cpu_count() or 1
    of_a_turn = config.steps + num_workers + 1 + _BATCHES_AHEAD * num_workers
    return 4 * config.repeats * of_a_turn


def _batch_size(config: TimeConfig, num_images: int) -> int:
    if config.batch_size is None:
        return min(default_batch_size(num_images), num_images)
    if config.batch_size > num_images:
        raise ConfigError(
            f"batch_size: {config.batch_size} crops of different images need as many, and there "
            f"are {num_images}; give at most that"
        )
    return config.batch_size


def _numbered_names() -> list[str]:
    return [f"class{number:04}" for number in range(_PLAIN_CLASSES)]


def _steps_ahead(config: TrainConfig) -> int:
    """Steps until a loader that was just started is in its steady state."""
    num_workers = count_workers(config)
    if not num_workers:
        return 1
    if kind_of_workers(config) == "threads" and not on_gpu(config):
        return num_workers  # one burst
    return 1 + _BATCHES_AHEAD * num_workers


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
