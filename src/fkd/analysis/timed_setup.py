"""Opens the training runs of several methods on the same images, for `fkd.analysis.timed_runs`.

Settings and setup are those of `fkd train`; label stores are random where the user gives none
(`fkd.analysis.random_labels`).
"""

import os
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from fkd.analysis.random_labels import Sample, read_sample, write_random_labels, write_random_maps
from fkd.analysis.time_config import METHODS_OF_FIGURE_5, TimeConfig, TimeProgress
from fkd.analysis.timed_runs import BATCHES_AHEAD, TimedRun
from fkd.data.sources import ImageSource, open_source
from fkd.data.subset import labeled_part
from fkd.engine.accelerators import start_accelerator
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.training.config import TrainConfig
from fkd.training.defaults import default_batch_size
from fkd.training.setup import TrainData, TrainSetup, build_setup

_M = (1, 2, 4, 8)  # crops per image of the paper's figure
_STORED_CROPS = 200  # of each image, in a store made here; as in the paper
_LEARNING_RATE = 1e-3  # small, as random labels are learned: no loss may become infinite
_PLAIN_CLASSES = 1000  # of labels made here, where nothing else says how many


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
    whole = images = open_source(config.images)
    for labels in (store, maps):
        images = images if labels is None else labeled_part(images, labels)
    batch_size = _batch_size(config, len(images))
    most = min(config.sampled_images, len(images))
    wanted = max(batch_size, most // batch_size * batch_size)  # every step has as many crops
    sample = read_sample(images, wanted)
    if sample.num_unreadable:
        progress.warn(f"{sample.num_unreadable} of {wanted} images are unreadable and left out")
    opener = _Opener(config, whole, sample, batch_size, folder)
    return opener.open(store, maps, progress), len(images)


class _Opener:
    """Opens the run of each method.

    Args:
        config: what to measure.
        images: all; a store is of these, or of a part.
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
    ) -> list[TimedRun]:
        """The runs, in the order of the figure."""
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
        return list(chain.from_iterable(runs.get(name, []) for name in METHODS_OF_FIGURE_5))

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
    of_a_turn = config.steps + num_workers + 1 + BATCHES_AHEAD * num_workers
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
