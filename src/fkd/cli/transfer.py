"""`fkd transfer`: a student as the backbone of a detector, or with a new head on other classes."""

import tempfile
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fkd.cli.console import make_console
from fkd.cli.reporter import RunReporter
from fkd.cli.train import SmokeReporter, TrainingReporter
from fkd.cli.verbs import VERBS
from fkd.data.sources import ImagesConfig
from fkd.engine.logging import Metrics
from fkd.errors import ConfigError
from fkd.transfer.classification import ClassificationResult, fine_tune, training_config
from fkd.transfer.config import PRESETS, TransferConfig
from fkd.transfer.run import DetectionResult, train_detector
from fkd.transfer.smoke import GENERATED, smoke_settings

_NAMES = {"detection": "Faster R-CNN", "segmentation": "Mask R-CNN"}


@dataclass(frozen=True, kw_only=True)
class TransferRecipe(TransferConfig):
    """A transfer run.

    Attributes:
        smoke: run it in seconds on generated images with a small backbone; nothing is kept, and
            neither images nor a checkpoint need to be named.
    """

    smoke: bool = False

    def __post_init__(self) -> None:
        if self.smoke:
            self._name_what_is_generated()
        self._require_all()
        super().__post_init__()

    def _require_all(self) -> None:
        """Name all that is missing at once, as for verbs whose options are always required."""
        has_weights = self.checkpoint or self.pretrained or self.from_scratch
        given = {"--checkpoint": has_weights, "--images.root": self.images, "--out": self.out}
        missing = [option for option, value in given.items() if not value]
        if missing:
            raise ConfigError(
                f"transfer needs {' and '.join(missing)}, e.g. {VERBS['transfer'].example} "
                "(fkd transfer --help); --smoke needs nothing"
            )

    def _name_what_is_generated(self) -> None:
        """Fill in what is made for a smoke run anyway."""
        if not self.out:
            object.__setattr__(self, "out", f"{GENERATED}/run")
        if self.images is None:
            object.__setattr__(self, "images", ImagesConfig(root=GENERATED))
        if not (self.checkpoint or self.pretrained or self.from_scratch):
            object.__setattr__(self, "checkpoint", GENERATED)


def transfer(recipe: TransferRecipe) -> None:
    """Train a detector on a student's weights, or fine-tune a student on other classes.

    Safe to kill: the same command resumes, and ends in the same weights. Under torchrun or
    `accelerate launch` the processes share every batch.
    """
    given = {field.name: getattr(recipe, field.name) for field in fields(TransferConfig)}
    config, console = TransferConfig(**given), make_console()
    if not recipe.smoke:
        _transfer(config, console, TrainingReporter)
        return
    console.print("smoke     generated images, a small backbone, a few steps: AP means nothing")
    with tempfile.TemporaryDirectory(prefix="fkd-smoke-") as folder:
        _transfer(smoke_settings(config, Path(folder)), console, SmokeReporter)
    console.print("smoke     the recipe runs; nothing is kept")


def more_help() -> str:
    """The tasks and the presets, one line each."""
    presets = "\n".join(
        f"  {name:7} {preset.epochs} epochs, the learning rate divided by 10 after "
        f"{' and '.join(map(str, preset.milestones))}"
        for name, preset in PRESETS.items()
    )
    return (
        "Tasks (--task):\n"
        "  segmentation    Mask R-CNN with a feature pyramid: boxes and masks\n"
        "  detection       Faster R-CNN with a feature pyramid: boxes\n"
        "  classification  all weights are fine-tuned under a new head\n\n"
        f"Presets of detectors (--preset):\n{presets}"
    )


class DetectionReporter(RunReporter):
    """Shows the training of a detector."""

    def __init__(self, console: Console, config: TransferConfig) -> None:
        super().__init__(console)
        self._config = config

    def begin(self, step: int, num_steps: int, description: str) -> None:
        """Say what is going to be done, and show a bar."""
        config = self._config
        weights = config.checkpoint or ("random weights" if config.from_scratch else "published")
        self.console.print(f"transfer  {_NAMES[config.task]} on {weights}")
        self.console.print(f"run       {config.out}: {description}")
        self.show_bar(step, num_steps)

    def numbers(self, metrics: Metrics) -> str:
        """The newest training line in words."""
        return (
            f"lr {metrics['lr']:.3g}  loss {metrics['loss']:.3f}  "
            f"{metrics['images_per_second']:.1f} images/s"
        )

    def measured(self, metrics: Metrics) -> str:
        """Average precision after a pass."""
        parts = [
            f"{kind} AP {_figure(metrics[f'val_{kind}_ap'])}  "
            f"AP50 {_figure(metrics[f'val_{kind}_ap50'])}"
            for kind in ("box", "mask")
            if f"val_{kind}_ap" in metrics
        ]
        return f"val {'  '.join(parts)}"


def _transfer(
    config: TransferConfig, console: Console, of_classifiers: type[TrainingReporter]
) -> None:
    if config.task == "classification":
        with closing(of_classifiers(console, training_config(config))) as reporter:
            _print_classification(fine_tune(config, reporter), console)
        return
    with closing(DetectionReporter(console, config)) as reporter:
        result = train_detector(config, reporter)
    if result.leads:
        _print_detection(result, console)


def _print_detection(result: DetectionResult, console: Console) -> None:
    if result.already_finished:
        console.print(f"finished  {result.path} is a finished run; nothing was left to do")
    console.print(
        f"detector  {result.path / 'model.safetensors'}; {result.num_steps:,} steps in "
        f"{result.seconds:,.0f} s, loss {result.loss:.3f}"
    )
    kinds = [kind for kind in ("box", "mask") if kind in result.figures]
    if not kinds:
        return
    columns = {"AP": "ap", "AP50": "ap50", "AP75": "ap75"}
    columns |= {"small": "small", "medium": "medium", "large": "large"}
    table = Table("val", *columns)
    for kind in kinds:
        table.add_row(kind, *(_figure(result.figures[kind][name]) for name in columns.values()))
    console.print(table, soft_wrap=False)
    console.print(f"result    {result.path / 'result.json'}: AP of each category")


def _print_classification(result: ClassificationResult, console: Console) -> None:
    trained = result.trained
    if not trained.leads:
        return
    if trained.already_finished:
        console.print(f"finished  {trained.path} is a finished run; nothing was left to do")
    console.print(
        f"student   {trained.path / 'model.safetensors'}; {trained.num_steps:,} steps in "
        f"{trained.seconds:,.0f} s, loss {trained.loss:.3f}"
    )
    if result.before is not None:
        console.print(_accuracy("before", *result.before))
        console.print(_accuracy("after", trained.val_top1, trained.val_top5))


def _accuracy(when: str, top1: float | None, top5: float | None) -> str:
    return f"{when:9} top-1 {_figure(top1)} %, top-5 {_figure(top5)} %"


def _figure(value: float | None) -> str:
    """A percentage; nothing where there was nothing to find."""
    return "-" if value is None else f"{value:.2f}"
