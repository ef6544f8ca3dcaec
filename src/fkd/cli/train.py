"""`fkd train`: a student from a label store, or without one."""

import tempfile
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from fkd.cli.console import make_console
from fkd.cli.reporter import RunReporter
from fkd.engine.logging import Metrics
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
        _train(small, console, SmokeReporter(console, small))
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


class TrainingReporter(RunReporter):
    """Shows the training of a student."""

    def __init__(self, console: Console, config: TrainConfig) -> None:
        super().__init__(console)
        self._config = config

    def begin(self, step: int, num_steps: int, description: str) -> None:
        """Say what is going to be done, and show a bar."""
        config = self._config
        summary = find_method(config.method).summary
        self.console.print(f"train     {config.student.name} by {config.method}: {summary}")
        if config.store:
            self.console.print(f"labels    {config.store}")
        epochs = f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
        self.console.print(f"run       {config.out}: {epochs} = {description}")
        self.show_bar(step, num_steps)

    def numbers(self, metrics: Metrics) -> str:
        """The newest training line; the accuracy is that of unmixed crops of known classes."""
        top1 = metrics["train_top1"]
        accuracy = "" if top1 is None else f"  top-1 {top1:.1f}"
        return (
            f"lr {metrics['lr']:.3g}  loss {metrics['loss']:.3f}{accuracy}  "
            f"{metrics['crops_per_second']:.0f} crops/s"
        )

    def measured(self, metrics: Metrics) -> str:
        """The accuracy after a pass."""
        if "val_knn" in metrics:
            return f"val k-NN {metrics['val_knn']:.2f}"
        if "val_map" in metrics:
            return f"val mAP {metrics['val_map']:.2f}  micro F1 {metrics['val_micro_f1']:.2f}"
        return f"val top-1 {metrics['val_top1']:.2f}  top-5 {metrics['val_top5']:.2f}"


class SmokeReporter(TrainingReporter):
    """Shows a smoke run, which is far too short to learn, on purpose."""

    def warn(self, text: str) -> None:
        """Say nothing."""


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
    if result.val_map is not None:
        console.print(f"accuracy  mAP {result.val_map:.2f} %")
    if result.val_knn is not None:
        console.print(f"accuracy  {result.val_knn:.2f} % of nearest neighbors among the features")
