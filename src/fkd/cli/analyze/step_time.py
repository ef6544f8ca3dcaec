"""`fkd analyze time`: where the time of a training step goes, by method (Fig. 5)."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Column, Table

from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.analysis.step_time import StepTimes, TimeReport, measure_time
from fkd.analysis.time_config import TimeConfig, TimeProgress
from fkd.analysis.time_figure import SHOWN, draw_time
from fkd.cli.console import format_duration, make_bar, make_console, print_remark, print_warning
from fkd.userfiles import home_path


def step_time(config: TimeConfig) -> None:
    """Measure where a training step goes, by method, on your machine and images (Fig. 5).

    Vanilla training, distillation with an online teacher, ReLabel and FKD with several m take turns
    of a few steps of real training. Needs only images and a student; labels are made up where no
    store is given. Nothing but the figure and its numbers is kept.
    """
    require_matplotlib()
    prepare_folder(home_path(config.out))
    console = make_console()
    with closing(_Reporter(console)) as reporter:
        report = measure_time(config, reporter)
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    numbers = {"settings": settings, **report.numbers()}
    files = save_analysis(home_path(config.out), "time", draw_time(report), numbers)
    _print(report, config, console)
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


class _Reporter(TimeProgress):
    """Shows a measurement on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None

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

    def started(self, num_turns: int) -> None:
        """Show a bar."""
        self._bar = make_bar(self._console)
        self._bar.add_task("turns", total=num_turns)
        self._bar.start()

    def advanced(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])


def _print(report: TimeReport, config: TimeConfig, console: Console) -> None:
    hardware = report.environment["hardware"]
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    load = "" if report.load_before is None else f", load average {report.load_before:.1f} before"
    console.print(
        f"time      {config.student.name} on {hardware['device']}, {threads}"
        f"{load}; medians of {config.repeats} turns of {config.steps} steps"
    )
    for rows in (report.inline, report.with_workers):
        if rows:
            console.print(_table(rows), soft_wrap=False)


def _table(rows: Sequence[StepTimes]) -> Table:
    """A column for each method, a row for each number; narrow enough for 80 characters."""
    workers = rows[0].num_workers
    how = f"{workers} loader workers" if workers else "Inline loader"
    table = Table(
        Column("", no_wrap=True),
        *(Column(row.name, justify="right", no_wrap=True) for row in rows),
        title=f"{how}, {rows[0].num_images:,} images an epoch",
        title_justify="left",
        padding=0,
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    for name, of_row in _SPEED.items():
        table.add_row(name, *map(of_row, rows))
    table.add_section()
    table.add_row("% of the step")
    _add_stages(table, rows, [row.parts for row in rows])
    table.add_row("all, over plain", *(_percent(row.observed_over_plain) for row in rows))
    if workers:
        table.add_section()
        table.add_row("% of it, beside it")
        _add_stages(table, rows, [row.beside for row in rows])
    return table


def _add_stages(table: Table, rows: Sequence[StepTimes], times: Sequence[dict[str, float]]) -> None:
    """A row for each stage that a method has, in percent of its step."""
    for stage, (name, _) in SHOWN.items():
        if any(stage in of_row for of_row in times):
            cells = (
                _percent(of_row[stage] / row.observed_step) if stage in of_row else "-"
                for row, of_row in zip(rows, times, strict=True)
            )
            table.add_row(name, *cells)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if abs(share) < 0.01 else f"{100 * share:.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


_SPEED: dict[str, Callable[[StepTimes], str]] = {
    "step, ms": lambda row: _number(1e3 * row.step),
    "its spread, %": lambda row: _percent(row.spread),
    "crops / s": lambda row: _number(row.crops_per_second),
    "images / s": lambda row: _number(row.images_per_second),
    "epoch": lambda row: format_duration(row.seconds_per_epoch),
}
