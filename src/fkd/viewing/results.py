"""What came out of runs: final and best values, speed, and means over runs that differ by seed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import mean, median, stdev
from typing import Any

from fkd.viewing.runs import Run

# Of every log line, or of training lines: no results of an evaluation.
_TRAINING = {
    *("step", "epoch", "lr", "loss", "train_top1", "seconds"),
    *("crops_per_second", "images_per_second"),  # of a student, of a detector
}
_LOSS_PART = "loss_"
_FIRST = ("val_top1", "val_knn", "val_map")  # what a run is judged by, where it has it
_LOWER_IS_BETTER = re.compile(r"loss|error|ece|kl\b|seconds|perplexity")

# Settings that do not change what comes out: where things lie, and what is written when.
_NEUTRAL = re.compile(
    r"(out|store|device|num_workers|workers|resume_from|val_every|log_every|checkpoint_seconds"
    r"|(images|val)\.(root|download))"
)


@dataclass(frozen=True)
class Outcome:
    """The results of one run; None where there are none.

    Attributes:
        finals: last value of each evaluated metric, by its name.
        judged: the metric that the run is judged by, the first of these.
        best: best value of that metric, and the epoch or step it is of.
        loss: last mean loss.
        seconds: of training and validation, over all starts.
        crops_per_second: median over the log lines.
        images_per_second: of a student the same over m, as an image is decoded once for m crops;
            of a detector as logged.
    """

    finals: dict[str, float]
    judged: str | None
    best: tuple[float, float] | None
    loss: float | None
    seconds: float | None
    crops_per_second: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone, one or more.

    Attributes:
        name: what their names have in common.
        runs: their positions among all.
        unfinished: how many of these are not finished, and are in no mean.
        means: of each result, (mean, standard deviation, number of runs); the deviation is that of
            a sample, None of a single run.
    """

    name: str
    runs: list[int]
    unfinished: int
    means: dict[str, tuple[float, float | None, int]]


def evaluated_metrics(runs: Sequence[Run]) -> list[str]:
    """Names of the evaluated metrics of any run; first what a run is judged by."""
    names = {n for n in _logged(runs) - _TRAINING if not n.startswith(_LOSS_PART)}
    return sorted(names, key=lambda name: (name not in _FIRST, not name.startswith("val_"), name))


def loss_parts(runs: Sequence[Run]) -> list[str]:
    """Names of the parts of the loss of any run, such as those of a detector."""
    return sorted(name for name in _logged(runs) if name.startswith(_LOSS_PART))


def _logged(runs: Sequence[Run]) -> set[str]:
    return {name for run in runs for line in run.lines for name in line}


def label_of(metric: str) -> str:
    """A metric for people: "val_top1" is "val top-1", "val_box_ap50" is "val box AP50"."""
    words = metric.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")
    words = re.sub(r"\bmap$", "mAP", re.sub(r"\bf1$", "F1", words))
    return re.sub(r"\bap(?=\d*$)", "AP", words)


def outcome_of(run: Run, metrics: Sequence[str]) -> Outcome:
    """The results of a run.

    Args:
        run: any.
        metrics: the evaluated ones; the first that the run has is the one with a best value.
    """
    curves = {name: run.curve(name) for name in metrics}
    finals = {name: curve[-1][1] for name, curve in curves.items() if curve}
    judged = next(iter(finals), None)
    speed, m = _median(run, "crops_per_second"), run.settings.get("crops_per_image")
    of_images = _median(run, "images_per_second")
    if of_images is None and speed and isinstance(m, int) and m > 0:
        of_images = speed / m
    return Outcome(
        finals=finals,
        judged=judged,
        best=None if judged is None else _best(judged, curves[judged]),
        loss=_last(run, "loss"),
        seconds=_last(run, "seconds"),
        crops_per_second=speed,
        images_per_second=of_images,
    )


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Names of settings, but for the folder, that are not the same in all runs that have any.

    A setting that an earlier version did not know is null.
    """
    known = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(name for settings in known for name in settings)
    return [
        name
        for name in names
        if name != "out" and len({repr(settings.get(name)) for settings in known}) > 1
    ]


def group_by_seed(
    runs: Sequence[Run], outcomes: Sequence[Outcome], metrics: Sequence[str]
) -> list[Group]:
    """Runs that differ by nothing but their seed, in the order of the first of each group."""
    members: dict[Any, list[int]] = {}
    for number, run in enumerate(runs):
        identity = _identity(run) if run.settings else number
        members.setdefault(identity, []).append(number)
    return [_group(numbers, runs, outcomes, metrics) for numbers in members.values()]


def _group(
    numbers: list[int],
    runs: Sequence[Run],
    outcomes: Sequence[Outcome],
    metrics: Sequence[str],
) -> Group:
    finished = [outcomes[number] for number in numbers if runs[number].finished]
    values = {name: [o.finals.get(name) for o in finished] for name in metrics}
    values["best"] = [None if o.best is None else o.best[0] for o in finished]
    values["loss"] = [o.loss for o in finished]
    values["seconds"] = [o.seconds for o in finished]
    means = {}
    for name, each in values.items():
        known = [value for value in each if value is not None]
        if known:
            means[name] = (mean(known), stdev(known) if len(known) > 1 else None, len(known))
    return Group(
        name=_common_name([runs[number].name for number in numbers]),
        runs=numbers,
        unfinished=len(numbers) - len(finished),
        means=means,
    )


def _identity(run: Run) -> str:
    """Everything but the seed: settings, and the data as env.json identifies them.

    A path that names the seed, such as weights-seed1.safetensors, is that of another seed.
    """
    seed = run.settings.get("seed")
    of_seed = re.compile(rf"seed([-_=]?){re.escape(str(seed))}(?!\d)")
    items = [
        (name, of_seed.sub(r"seed\1*", value) if isinstance(value, str) else value)
        for name, value in run.settings.items()
        if name != "seed" and not _NEUTRAL.fullmatch(name)
    ]
    data = [pair for pair in run.environment.items() if pair[0].startswith("data.")]
    return repr((sorted(items, key=repr), sorted(data, key=repr)))


def _common_name(names: Sequence[str]) -> str:
    """What names have in common, without the seed that tells them apart."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in alike)
    name = re.sub(r"[-_/=.\s]*(seed|s)?[-_/=.\s]*$", "", shared)
    return name or ", ".join(names)


def _best(metric: str, curve: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The best value and where it is; the first of equal ones."""
    choose = min if _LOWER_IS_BETTER.search(metric) else max
    x, value = choose(curve, key=lambda point: point[1])
    return value, x


def _median(run: Run, name: str) -> float | None:
    values = [line[name] for line in run.lines if name in line]
    return median(values) if values else None


def _last(run: Run, name: str) -> float | None:
    return next((line[name] for line in reversed(run.lines) if name in line), None)
