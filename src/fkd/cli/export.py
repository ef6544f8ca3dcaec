"""`fkd export`: a finished network as one file, compared with torch and timed."""

from contextlib import closing

from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from fkd.cli.console import format_size, make_bar, make_console, print_remark
from fkd.export.config import ExportConfig
from fkd.export.run import ExportProgress, ExportReport
from fkd.export.run import export as run_export


def export(config: ExportConfig) -> None:
    """Write a run or any model as one file that runs without fkd: ONNX, or torch's own program.

    The file takes any number of crops and says by itself how they are made and what the outputs
    are called. Before it is written, it runs here on 16 crops; if its outputs differ from torch's
    by more than 1e-4 of the largest, nothing is written. Then it is timed, beside the teacher.
    """
    console = make_console()
    with closing(_Reporter(console)) as reporter:
        report = run_export(config, reporter)
    _print_report(report, console)


class _Reporter(ExportProgress):
    """Shows the stages as a bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._begun = 0

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def remark(self, text: str) -> None:
        """Print a line that begins with "note"."""
        print_remark(self._console, text)

    def begin(self, total: int) -> None:
        """Show the bar."""
        self._bar = make_bar(self._console)
        self._bar.add_task("", total=total)
        self._bar.start()

    def stage(self, what: str) -> None:
        """Say what is done now."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=what, completed=self._begun)
        self._begun += 1


def _print_report(report: ExportReport, console: Console) -> None:
    expected, compared = report.preprocessing, report.comparison
    kind = "uint8" if expected["normalized_inside"] else "normalized float32"
    console.print(f"file      {report.path} ({format_size(report.num_bytes)})")
    console.print(
        f"network   {report.network}: {kind} crops of {expected['input_size']} pixels to "
        f"{report.num_outputs:,} {report.outputs}"
    )
    console.print(
        f"compared  {compared.num_crops} crops {compared.crops}: outputs differ from torch's by at "
        f"most {compared.max_difference:.1e} ({compared.relative_difference:.1e} of the largest); "
        f"the first is the same for {compared.same_top1:.0%}"
    )
    for name, size in report.sizes.items():
        console.print(
            f"size      {name}: {size.parameters:,} parameters, {_count(size.macs)} "
            f"multiply-accumulates at {size.input_size} pixels"
        )
    if report.latencies:
        console.print(_latency_table(report), soft_wrap=False)
    console.print(f"report    {report.report_path}")


def _latency_table(report: ExportReport) -> Table:
    threads = f"{report.threads} thread{'s' * (report.threads > 1)}"
    title = f"latency of a forward pass, {report.cpu}, {threads}"
    table = Table(title=title, title_justify="left", title_style="", collapse_padding=True)
    table.add_column("network")
    table.add_column("runs in")
    for heading in ("batch", "median", "10-90 %", "runs", "crops/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for latency in report.latencies:
        unit, scale = ("s", 1000.0) if latency.p90_ms >= 1000 else ("ms", 1.0)
        median, low, high = (
            f"{value / scale:#.3g}".rstrip(".")
            for value in (latency.median_ms, latency.p10_ms, latency.p90_ms)
        )
        table.add_row(
            latency.network,
            latency.runtime,
            f"{latency.batch_size}",
            f"{median} {unit}",
            f"{low}-{high}",
            f"{latency.runs}",
            f"{rate:,.0f}" if (rate := latency.crops_per_second) >= 10 else f"{rate:.2g}",
        )
    return table


def _count(number: int) -> str:
    """For example "1.81 G"."""
    value = float(number)
    for unit in ("", " k", " M", " G", " T"):
        if value < 1000 or unit == " T":
            break
        value /= 1000
    return f"{value:.3g}{unit}"
