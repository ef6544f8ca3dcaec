"""`fkd probe`: k nearest neighbors and a linear classifier on frozen features."""

import json
from contextlib import closing
from dataclasses import asdict, dataclass, fields

from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from fkd.cli.console import make_bar, make_console, print_remark, print_warning
from fkd.evaluation.probe import ProbeConfig, ProbeProgress, ProbeReport
from fkd.evaluation.probe import probe as run_probe


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(ProbeConfig):
    """A linear evaluation, and how its result is printed.

    Attributes:
        json_output: print one JSON object instead of a table.
    """

    json_output: bool = False


def probe(options: ProbeOptions) -> None:
    """Measure what the features of a frozen backbone are worth: k nearest neighbors, linear probe.

    The backbone is in eval mode and never trained; no classifier of its own is used, and it needs
    none. Features of all images are computed once and kept in --out, so a killed run resumes, and
    the next one with other settings of the classifier takes seconds.
    """
    config = ProbeConfig(
        **{field.name: getattr(options, field.name) for field in fields(ProbeConfig)}
    )
    console = make_console()
    with closing(_Reporter(console, quiet=options.json_output)) as reporter:
        report = run_probe(config, reporter)
    if options.json_output:
        # The one control character that JSON leaves as it is.
        print(json.dumps(asdict(report), indent=2).replace("\x7f", "\\u007f"))
    else:
        _print_report(report, config, console)


def more_help() -> str:
    """The protocols, one line each."""
    return (
        "Protocols (--protocol):\n"
        "  sweep  on features computed once, in seconds; the learning rate is chosen on a tenth\n"
        "         of the training images, never on the validation images\n"
        "  sgd    on random crops, as S2-BNN and MoCo: SGD, 100 epochs; a forward pass of the\n"
        "         backbone for every crop\n"
        "  lars   on random crops, as SimSiam: LARS, batches of 4,096 images, 90 epochs"
    )


class _Reporter(ProbeProgress):
    """Shows each stage as a bar on a terminal."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._bar: Bar | None = None

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def remark(self, text: str) -> None:
        """Print a line that begins with "note"."""
        if not self._quiet:
            print_remark(self._console, text)

    def warn(self, text: str) -> None:
        """Print a line that begins with "warning"."""
        if not self._quiet:
            print_warning(self._console, text)

    def begin(self, what: str, total: int) -> None:
        """Show another bar."""
        self.close()
        if not self._quiet:
            self._bar = make_bar(self._console)
            self._bar.add_task(what, total=total)
            self._bar.start()

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], count)


def _print_report(report: ProbeReport, config: ProbeConfig, console: Console) -> None:
    console.print(f"model     {config.model}: {report.model}, {report.num_features:,} features")
    console.print(
        f"images    {report.num_images:,} in {config.images.root} to train on, "
        f"{report.num_val_images:,} in {config.val.root} to measure, {report.num_classes:,} classes"
    )
    if config.out is not None:
        console.print(f"features  {config.out}")
    table = Table("classifier", "top-1", "top-5", "settings")
    knn = config.knn
    table.add_row(
        "nearest neighbors",
        f"{report.knn_top1:.2f} %",
        "",
        f"k {knn.k}, temperature {knn.temperature:g}",
    )
    linear = report.linear
    table.add_row(
        f"linear, {report.protocol}",
        f"{linear.top1:.2f} %",
        f"{linear.top5:.2f} %",
        f"learning rate {linear.learning_rate:g}, {report.epochs} epochs",
    )
    console.print(table, soft_wrap=False)
    if linear.held_out_top1:
        console.print(
            "held out  "
            + ", ".join(f"{rate:g}: {top1:.1f}" for rate, top1 in linear.held_out_top1.items())
            + " % (learning rate: top-1 on a tenth of the training images)"
        )
