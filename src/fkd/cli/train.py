"""`fkd train`: a student from a label store, or without one."""

import tempfile
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn

from fkd.cli.console import make_bar, make_console, print_remark, print_warning
from fkd.engine.logging import Metrics, Progress
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.methods import METHODS, find_method
from fkd.smoke import smoke_settings
from fkd.training.config import TrainConfig
from fkd.training.run import TrainResult
from fkd.training.run import train as run_training


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainConfig):
    """A training run, and how its labels are made.

    Attributes:
        labels: settings of `fkd label` for the store, or the file that holds them; a smoke run
            labels likewise, a real one takes the store as it is.
        maps: the same for a store of label maps: settings of `fkd label-maps`.
        smoke: run the recipe in seconds on generated images with a tiny teacher; nothing is kept.
    """

    labels: LabelConfig | None = None
    maps: LabelMapsConfig | None = None
    smoke: bool = False


def train(recipe: Recipe) -> None:
    """Train a student. Safe to kill: the same command resumes, and ends in the same weights.

    Under torchrun or `accelerate launch` the processes share every batch.
    """
    given = {field.name: getattr(recipe, field.name) for field in fields(TrainConfig)}
    config = TrainConfig(**given)
    console = make_console()
    if not recipe.smoke:
        _train(config, console, TrainingReporter(console, config))
        return
    console.print("smoke     generated images, a tiny teacher, a few steps: accuracy means nothing")
    with tempfile.TemporaryDirectory(prefix="fkd-smoke-") as folder:
        small = smoke_settings(config, recipe.maps or recipe.labels, Path(folder))
        _train(small, console, _SmokeReporter(console, small))
    console.print("smoke     the recipe runs; nothing is kept")


def _train(config: TrainConfig, console: Console, reporter: "TrainingReporter") -> None:
    with closing(reporter):
        result = run_training(config, reporter)
    if result.leads:
        _print_result(result, config, console)


def more_help() -> str:
    """The methods, one line each."""
    width = max(map(len, METHODS))
    lines = "\n".join(f"  {name:{width}}  {kind.summary}" for name, kind in METHODS.items())
    return f"Methods (--method):\n{lines}"


class TrainingReporter(Progress):
    """Shows a run on a terminal: a bar, and a line for each pass; elsewhere the lines alone."""

    def __init__(self, console: Console, config: TrainConfig) -> None:
        self._console = console
        self._config = config
        self._bar: Bar | None = None
        self._newest: Metrics = {}
        self._told = 0

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def remark(self, text: str) -> None:
        """Print a line that begins with "note"."""
        print_remark(self._console, text)

    def warn(self, text: str) -> None:
        """Print a line that begins with "warning"."""
        print_warning(self._console, text)

    def begin(self, step: int, num_steps: int, description: str) -> None:
        """Say what is going to be done, and show a bar."""
        config = self._config
        summary = find_method(config.method).summary
        self._console.print(f"train     {config.student.name} by {config.method}: {summary}")
        if config.store:
            self._console.print(f"labels    {config.store}")
        epochs = f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
        self._console.print(f"run       {config.out}: {epochs} = {description}")
        if step:
            self._console.print(f"resumed   after step {step:,} of {num_steps:,}")
        if self._console.is_terminal:
            numbers = TextColumn("{task.fields[numbers]}", markup=False)
            self._bar = make_bar(self._console, numbers, transient=False)
            self._bar.add_task("steps", total=num_steps, completed=step, numbers="")
            self._bar.start()

    def advance(self, step: int, metrics: Metrics) -> None:
        """Move the bar; outside a terminal, print a line for each new line of metrics.jsonl."""
        new, self._newest = metrics is not self._newest, metrics
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=step, numbers=_numbers(metrics) if metrics else ""
            )
        elif new and metrics:
            self._console.print(f"{_where(metrics)}  {_numbers(metrics)}")

    def evaluated(self, metrics: Metrics) -> None:
        """Print the accuracy after a pass."""
        if "val_knn" in metrics:
            measured = f"val k-NN {metrics['val_knn']:.2f}"
        else:
            measured = f"val top-1 {metrics['val_top1']:.2f}  top-5 {metrics['val_top5']:.2f}"
        self._console.print(f"{_where(metrics)}  {measured}")


class _SmokeReporter(TrainingReporter):
    """Shows a smoke run, which is far too short to learn, on purpose."""

    def warn(self, text: str) -> None:
        """Say nothing."""


def _where(metrics: Metrics) -> str:
    return f"epoch {metrics['epoch']:7.2f}  step {metrics['step']:,}"


def _numbers(metrics: Metrics) -> str:
    """The newest training line in words; the accuracy is that of unmixed crops of known classes."""
    top1 = metrics["train_top1"]
    accuracy = "" if top1 is None else f"  top-1 {top1:.1f}"
    return (
        f"lr {metrics['lr']:.3g}  loss {metrics['loss']:.3f}{accuracy}  "
        f"{metrics['crops_per_second']:.0f} crops/s"
    )


def _print_result(result: TrainResult, config: TrainConfig, console: Console) -> None:
    if result.already_finished:
        console.print(f"finished  {result.path} is a finished run; nothing was left to do")
    ema = ", moving average of the weights" if config.ema_decay is not None else ""
    console.print(
        f"student   {result.path / 'model.safetensors'}{ema}; {result.num_steps:,} steps in "
        f"{result.seconds:,.0f} s, loss {result.loss:.3f}"
    )
    if result.val_top1 is not None:
        console.print(f"accuracy  top-1 {result.val_top1:.2f} %, top-5 {result.val_top5:.2f} %")
    if result.val_knn is not None:
        console.print(f"accuracy  {result.val_knn:.2f} % of nearest neighbors among the features")
