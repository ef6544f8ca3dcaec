"""Where the time of a training step goes, by method: Fig. 5 of the paper, on the user's machine.

Runs of vanilla training, online distillation, ReLabel and FKD with several m take turns of a few
steps, again and again, so that all of them meet the same disturbances:

    repeat 0    vanilla  kd  relabel  fkd 1  fkd 2 ...        each run: steps as they are,
    repeat 1             kd  relabel  fkd 1  fkd 2 ... vanilla          then steps in stages

Steps "as they are" are plain training; the stages of the others must add up to the same time, which
is reported. Every run is measured with a loader that works inline, where the stages are all there
is, and with the workers that `fkd train` would have, where the loader works beside the step.
Medians are taken over the repeats; the *spread* is the interquartile range over the median.

Source: FKD (Shen and Xing, ECCV 2022), Fig. 5.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fkd.analysis.stages import ALL_STAGES
from fkd.analysis.time_config import TimeConfig, TimeProgress
from fkd.analysis.timed_runs import TimedRun, Turn
from fkd.analysis.timed_setup import open_runs
from fkd.errors import RunError
from fkd.training.environment import describe_environment

REST = "rest"
"""What is left of a step: its time less that of all its stages."""
_BUSY = 0.25  # of the cores that others use: above, times mean less
_SPREAD = 0.1


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Where a step of one method goes; times are medians, in seconds per step.

    A part is the median of its share of a turn, times the observed step.

    Attributes:
        method: its name.
        crops_per_image: m.
        num_workers: of the loader; 0 where it works inline.
        crops_per_step: mean number of crops of a step.
        num_images: of an epoch, in which every image is seen once.
        step: of plain training.
        spread: interquartile range of `step` over the repeats, relative to it.
        observed_step: of steps in stages.
        observed_over_plain: median of the ratio of the two in one repeat: what watching costs.
        parts: of each stage, and `REST`.
        beside: of each stage of the loader, in its workers; none where it works inline.
        plain_turns, observed_turns: what was measured.
    """

    method: str
    crops_per_image: int
    num_workers: int
    crops_per_step: float
    num_images: int
    step: float
    spread: float
    observed_step: float
    observed_over_plain: float
    parts: dict[str, float]
    beside: dict[str, float]
    plain_turns: list[Turn]
    observed_turns: list[Turn]

    @property
    def name(self) -> str:
        """What a row is called, such as "fkd m=4"."""
        return f"{self.method} m={self.crops_per_image}" if self.method == "fkd" else self.method

    @property
    def crops_per_second(self) -> float:
        """Crops that plain training sees; what the paper's figure calls images."""
        return self.crops_per_step / self.step

    @property
    def images_per_second(self) -> float:
        """Images that plain training reads and decodes."""
        return self.crops_per_second / self.crops_per_image

    @property
    def seconds_per_epoch(self) -> float:
        """Of plain training: one crop of each image."""
        return self.num_images / self.crops_per_second

    @property
    def explained(self) -> float:
        """Share of the observed step that its stages add up to."""
        return 1.0 - self.parts[REST] / self.observed_step

    def label_share(self, *stages: str) -> float:
        """Time of stages of labels over that of the step, in whichever thread they are."""
        work = sum(self.parts.get(s, 0.0) + self.beside.get(s, 0.0) for s in stages)
        return work / self.observed_step

    def numbers(self) -> dict[str, Any]:
        """Everything in JSON's types."""
        return {
            "method": self.method,
            "crops_per_image": self.crops_per_image,
            "num_workers": self.num_workers,
            "crops_per_step": self.crops_per_step,
            "step_ms": 1e3 * self.step,
            "step_spread": self.spread,
            "repeats": len(self.plain_turns),
            "observed_step_ms": 1e3 * self.observed_step,
            "parts_ms": {name: 1e3 * seconds for name, seconds in self.parts.items()},
            "beside_ms": {name: 1e3 * seconds for name, seconds in self.beside.items()},
            "explained_share": self.explained,
            "observed_over_plain_step": self.observed_over_plain,
            "label_read_share": self.label_share("label_read"),
            "label_preparation_share": self.label_share("label_preparation"),
            "crops_per_second": self.crops_per_second,
            "images_per_second": self.images_per_second,
            "seconds_per_epoch": self.seconds_per_epoch,
            "plain_turns": [asdict(turn) for turn in self.plain_turns],
            "observed_turns": [asdict(turn) for turn in self.observed_turns],
        }


@dataclass(frozen=True)
class TimeReport:
    """The result of a measurement.

    Attributes:
        rows: of every method, with an inline loader and with workers.
        num_images: of an epoch.
        load_before, load_after: mean number of busy threads of the machine in the last minute; None
            where the system does not tell.
        num_cores: of the machine.
        environment: libraries, device and code.
    """

    rows: list[StepTimes]
    num_images: int
    load_before: float | None
    load_after: float | None
    num_cores: int
    environment: dict[str, Any]

    @property
    def inline(self) -> list[StepTimes]:
        """The rows whose loader works inline."""
        return [row for row in self.rows if row.num_workers == 0]

    @property
    def with_workers(self) -> list[StepTimes]:
        """The rows whose loader has workers."""
        return [row for row in self.rows if row.num_workers]

    def numbers(self) -> dict[str, Any]:
        """Everything in JSON's types."""
        return {
            "num_images": self.num_images,
            "load_average_before": self.load_before,
            "load_average_after": self.load_after,
            "cores": self.num_cores,
            **self.environment,
            "rows": [row.numbers() for row in self.rows],
        }


def measure_time(config: TimeConfig, progress: TimeProgress | None = None) -> TimeReport:
    """Where a step goes, for each method.

    Args:
        config: what to measure.
        progress: told what happens.

    Raises:
        FKDError: as `fkd train`; RunError where memory does not suffice.
    """
    progress = progress or TimeProgress()
    load_before, num_cores = _load_average(), os.cpu_count() or 1
    try:
        with tempfile.TemporaryDirectory(prefix="fkd-time-") as folder:
            runs, num_images = open_runs(config, Path(folder), progress)
            _warn_if_busy(load_before, num_cores, progress)
            turns = take_turns(config, runs, progress)
    except torch.OutOfMemoryError as error:
        raise RunError(
            "the GPU has too little memory for the networks of all methods side by side; give a "
            "smaller --batch_size, or fewer --methods"
        ) from error
    num_images = config.num_images or num_images
    rows = [
        summarize(run, workers, num_images, *of_run) for (run, workers), of_run in turns.items()
    ]
    report = TimeReport(
        rows,
        num_images,
        load_before,
        _load_average(),
        num_cores,
        _environment(runs[0].device),
    )
    uneven = [row for row in rows if row.spread > _SPREAD]
    if uneven:
        worst = max(uneven, key=lambda row: row.spread)
        progress.warn(
            f"{len(uneven)} of {len(rows)} steps differ by more than {100 * _SPREAD:.0f} % between "
            f"repeats (most {worst.name}, {100 * worst.spread:.0f} %); repeat it on a quiet "
            "machine, or with more --repeats"
        )
    return report


Turns = tuple[list[Turn], list[Turn]]
"""Turns as they are, and observed ones."""


def take_turns(
    config: TimeConfig, runs: Sequence[TimedRun], progress: TimeProgress
) -> dict[tuple[TimedRun, int], Turns]:
    """The turns of every run, with an inline loader and with workers; each repeat begins with
    another of them."""
    kinds = sorted({0, runs[0].num_workers})
    sides: list[tuple[TimedRun, int]] = [(run, workers) for workers in kinds for run in runs]
    turns: dict[tuple[TimedRun, int], Turns] = {side: ([], []) for side in sides}
    progress.started(2 * len(sides) * config.repeats)
    for repeat in range(config.repeats):
        first = repeat % len(sides)
        for run, workers in sides[first:] + sides[:first]:
            for observed in (False, True) if repeat % 2 == 0 else (True, False):
                turn = run.take_turn(workers, config.steps, observed=observed)
                turns[run, workers][observed].append(turn)
                progress.advanced()
    return turns


def summarize(
    run: TimedRun, num_workers: int, num_images: int, plain: list[Turn], observed: list[Turn]
) -> StepTimes:
    """Medians over the turns of one run.

    Args:
        run: whose turns they are.
        num_workers: of its loader.
        num_images: of an epoch.
        plain: turns as they are.
        observed: turns in stages.
    """
    crops = sum(t.num_crops for t in plain) / sum(t.steps for t in plain)

    def step(turns: list[Turn]) -> float:
        return crops * statistics.median(turn.seconds / turn.num_crops for turn in turns)

    def part(of_turn: Callable[[Turn], float]) -> float:
        """By its share of each turn, from which the drift of a machine's speed cancels."""
        return step(observed) * statistics.median(of_turn(t) / t.seconds for t in observed)

    def stages(times: Callable[[Turn], dict[str, float]]) -> dict[str, float]:
        return {
            name: part(lambda turn, name=name: times(turn).get(name, 0.0))  # type: ignore[misc]
            for name in ALL_STAGES
            if any(name in times(turn) for turn in observed)
        }

    rest = part(lambda turn: turn.seconds - sum(turn.parts.values()))
    return StepTimes(
        method=run.method,
        crops_per_image=run.crops_per_image,
        num_workers=num_workers,
        crops_per_step=crops,
        num_images=num_images,
        step=step(plain),
        spread=_spread([turn.seconds / turn.num_crops for turn in plain]),
        observed_step=step(observed),
        observed_over_plain=statistics.median(
            (seen.seconds / seen.num_crops) / (unseen.seconds / unseen.num_crops)
            for seen, unseen in zip(observed, plain, strict=True)
        ),
        parts=stages(lambda turn: turn.parts) | {REST: rest},
        beside=stages(lambda turn: turn.beside),
        plain_turns=plain,
        observed_turns=observed,
    )


def _spread(values: list[float]) -> float:
    """Interquartile range over the median; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def _warn_if_busy(load: float | None, num_cores: int, progress: TimeProgress) -> None:
    if load is not None and load > _BUSY * num_cores:
        progress.warn(
            f"the machine is busy: a load average of {load:.1f} on {num_cores} cores before the "
            "measurement. Times are too long and uneven; measure again on a quiet machine, or with "
            "more --repeats"
        )


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _environment(device: torch.device) -> dict[str, Any]:
    described = describe_environment(0, 1, device, {})
    return {name: described[name] for name in ("commit", "versions", "hardware")}
