"""`fkd eval`: accuracy, calibration and agreement of one or several models on sets of images."""

from contextlib import closing
from dataclasses import dataclass, fields
from operator import attrgetter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress as Bar
from rich.table import Table

from fkd.cli.console import make_bar, make_console, print_remark
from fkd.errors import ConfigError
from fkd.evaluation.evaluate import EvalConfig, EvalProgress
from fkd.evaluation.evaluate import evaluate as run_evaluation
from fkd.evaluation.metrics import CALIBRATION_BINS, CALIBRATION_NORM
from fkd.evaluation.results import EvalResult
from fkd.models.classes import display_names

# Columns by the word for --sort: field of a result, title, format, whether larger is better.
_COLUMNS = {
    "set": ("set", "set", "{}", False),
    "model": ("model", "model", "{}", False),
    "images": ("num_images", "images", "{:,}", True),
    "top1": ("top1", "top-1", "{:.2f}", True),
    "top5": ("top5", "top-5", "{:.2f}", True),
    "class": ("mean_class_top1", "class", "{:.2f}", True),
    "map": ("mean_ap", "mAP", "{:.2f}", True),
    "f1": ("micro_f1", "F1", "{:.2f}", True),
    "ece": ("calibration_error", "ECE", "{:.2f}", False),
    "agreement": ("agreement", "agree", "{:.2f}", True),
    "kl": ("divergence", "KL", "{:.4f}", False),
}

_WIDEST = 10_000  # columns of text


@dataclass(frozen=True)
class EvalOptions(EvalConfig):
    """An evaluation, and how its results are printed.

    Attributes:
        sort: columns to sort the table by, with commas between them: set, model, images, top1,
            top5, class, map, f1, ece, agreement or kl; best first. By default sets and models keep
            the order in which they are given.
        reverse: sort with the worst first.
    """

    sort: str | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for column in _sort_columns(self):
            if column not in _COLUMNS:
                raise ConfigError(f"sort: {column!r} is no column; use {', '.join(_COLUMNS)}")


def _sort_columns(options: EvalOptions) -> list[str]:
    """The columns to sort by, the most important first."""
    return [] if options.sort is None else [word.strip() for word in options.sort.split(",")]


def evaluate(options: EvalOptions) -> None:
    """Measure top-1, top-5, calibration and accuracy per class; with --teacher also agreement.

    Of images with several classes each, measure mean average precision and F1 instead.

    Classes are matched by name, never by position. Several models and several sets give one table
    and one file of results (--out), side by side.
    """
    config = EvalConfig(
        **{field.name: getattr(options, field.name) for field in fields(EvalConfig)}
    )
    console = make_console()
    with closing(_Reporter(console)) as reporter:
        results = run_evaluation(config, reporter)
    if len(results) == 1:
        _print_one(results[0], console)
    else:
        _print_table(sort_results(results, _sort_columns(options), options.reverse), console)
    if options.out is not None:
        known = (
            f"; {reporter.num_reused} were there already (--redo computes them again)"
            if reporter.num_reused
            else ""
        )
        console.print(f"results   {options.out}, with the accuracy of every class{known}")


def more_help() -> str:
    """How sets are named, what kinds there are, and what the columns mean."""
    return (
        "Several models and sets (--sets.NAME SET, or in a file of settings):\n"
        "  fkd eval run1 run2 resnet50 --sets.val photos/val --sets.v2 v2 --out results.json\n"
        "A set is one of\n"
        "  PATH                  classes of folders or Parquet files, matched by name; folders\n"
        "                        called 0 to 999 (ImageNetV2) are class ids\n"
        "  real:PATH             ImageNet's validation images with the ReaL labels, found by the\n"
        "                        names of the files; in any folders, or none\n"
        "  imagenet-a:PATH, imagenet-r:PATH\n"
        "                        only the 200 classes of the set are ranked\n"
        "  cifar10:PATH, cifar100:PATH\n"
        "                        the test images of torchvision's\n"
        "  {root: PATH, split: val, kind: real, ...}\n"
        "                        any option of --images by its name, and kind\n\n"
        "Columns of the table (--sort top1: best first; --sort set,top1: best first in each set):\n"
        "  top-1, top-5  share of images whose class is ranked first, or among the first five\n"
        "  class         mean of the top-1 of the classes; each one's is in --out\n"
        "  mAP, F1       of images with several classes each: mean average precision of the\n"
        "                classes that any image has, and micro F1 of probabilities from 1/2\n"
        f"  ECE           expected calibration error, {CALIBRATION_BINS} bins, norm "
        f"{CALIBRATION_NORM}: distance of confidence and accuracy\n"
        "  agree, KL     with --teacher: share of images with the same top-1, and the mean\n"
        "                KL(teacher || model) in nats, over the classes that both have by name"
    )


def sort_results(
    results: list[EvalResult], columns: list[str], reverse: bool = False
) -> list[EvalResult]:
    """Results by columns, best first; what cannot be measured is last, ties stay in order."""
    for column in reversed(columns):
        name, _, _, larger_is_better = _COLUMNS[column]
        value_of = attrgetter(name)
        known = [result for result in results if value_of(result) is not None]
        unknown = [result for result in results if value_of(result) is None]
        known.sort(key=value_of, reverse=larger_is_better != reverse)
        results = known + unknown
    return results


class _Reporter(EvalProgress):
    """Shows each pass as a bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None
        self.num_reused = 0

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def remark(self, text: str) -> None:
        """Print a line that begins with "note"."""
        print_remark(self._console, text)

    def begin(self, what: str, total: int) -> None:
        """Show another bar."""
        self.close()
        self._bar = make_bar(self._console)
        self._bar.add_task(what, total=total)
        self._bar.start()

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], count)

    def reuse(self, what: str) -> None:
        """Count it."""
        self.num_reused += 1


def _print_one(result: EvalResult, console: Console) -> None:
    seen = result.identity["preprocessing"]
    console.print(
        f"model     {result.model}: {result.network}, {result.num_classes:,} classes, "
        f"{seen['input_size']} pixels, {seen['interpolation']}"
    )
    console.print(f"images    {result.num_images:,} in {result.root}")
    if result.num_left_out:
        console.print(f"left out  {result.num_left_out:,} images: {result.reason}")
    if result.top1 is not None:
        console.print(f"accuracy  top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %")
        worst = min(result.classes, key=lambda of_one: of_one.top1 or 0.0)
        console.print(
            f"classes   {result.mean_class_top1:.2f} % on average of {len(result.classes):,}, the "
            f"lowest {worst.top1:.2f} %: {_described(worst.name)}, {worst.num_images:,} "
            f"image{'s' * (worst.num_images != 1)}"
        )
        console.print(
            f"ECE       {result.calibration_error:.2f} % (expected calibration error, "
            f"{CALIBRATION_BINS} bins, norm {CALIBRATION_NORM})"
        )
    if result.mean_ap is not None:
        _print_multi_label(result, console)
    if result.teacher is not None:
        console.print(
            f"teacher   {result.teacher}: agreement {result.agreement:.2f} % (same top-1), "
            f"KL(teacher || model) {result.divergence:.4f} nats, over "
            f"{result.num_shared_classes:,} classes"
        )


def _print_multi_label(result: EvalResult, console: Console) -> None:
    absent = result.num_absent_classes
    left_out = f"; {absent:,} that no image has are left out" if absent else ""
    console.print(f"mAP       {result.mean_ap:.2f} % (mean average precision)")
    worst = min(result.classes, key=lambda of_one: of_one.average_precision or 0.0)
    console.print(
        f"classes   of {len(result.classes):,} the lowest {worst.average_precision:.2f} %: "
        f"{_described(worst.name)}, {worst.num_images:,} image{'s' * (worst.num_images != 1)}"
        f"{left_out}"
    )
    console.print(
        f"F1        micro {result.micro_f1:.2f} %, macro {result.macro_f1:.2f} % (of probabilities "
        "of 1/2 or more)"
    )


def _described(name: str) -> str:
    """The name of a class, and for a WordNet id a word for people."""
    word = display_names([name])[0]
    return name if word == name else f"{name} ({word})"


def _print_table(results: list[EvalResult], console: Console) -> None:
    """One row for each result, with the columns that any of them has."""
    shown = [
        column
        for column in _COLUMNS.values()
        if any(getattr(result, column[0]) is not None for result in results)
    ]
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for name, title, _, _ in shown:
        if name in ("set", "model"):
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        values = [(getattr(result, name), form) for name, _, form, _ in shown]
        table.add_row(*("" if value is None else form.format(value) for value, form in values))
    if not console.is_terminal:  # a file or a pipe has no width to fold names for
        options = console.options.update(width=_WIDEST)
        console.width = max(console.width, Measurement.get(console, options, table).maximum)
    console.print(table, soft_wrap=False)
    units = ", KL in nats" if any(result.divergence is not None for result in results) else ""
    console.print(f"Percentages{units}; fkd eval --help explains the columns.")
    for result in results:
        if result.num_left_out:
            console.print(
                f"left out  {result.num_left_out:,} images of {result.set} for {result.model}: "
                f"{result.reason}"
            )
