"""`fkd bench`: what is promised about speed, measured where it is read."""

import time

from rich.console import Console
from rich.table import Table

from fkd.bench import BenchConfig, Report, Row, describe_machine, run_bench, summary

_WIDTH = 150  # columns where the output is no terminal


def bench(config: BenchConfig) -> None:
    """Measure reading, loading, loss, training, labelling and start-up against their peers.

    Missed goals are figures like others: the exit code is 0.
    """
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(summary(describe_machine()), soft_wrap=True)
    started = time.monotonic()

    def announce(what: str) -> None:
        console.print(f"{time.monotonic() - started:5.0f} s  {what}", soft_wrap=True)

    _print_report(run_bench(config, announce), console)
    if config.json is not None:
        console.print(f"figures: {config.json}")


def _print_report(report: Report, console: Console) -> None:
    table = Table("what", "against", title="medians; ratio: how many times better ours is")
    for name in ("ours", "peer", "ratio", "goal", "", "spread", "n"):
        table.add_column(name, justify="left" if name in ("goal", "") else "right")
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in report.rows:
        if row.skipped:
            console.print(f"not measured: {row.name}: {row.skipped}", soft_wrap=True)
        if "shift" in row.notes:
            console.print(f"{row.name}: {row.notes['shift']}", soft_wrap=True)
    judged = [row.met for row in report.rows if row.met is not None]
    console.print(f"{sum(judged)} of {len(judged)} goals met; {report.seconds:.0f} s")


def _cells(row: Row) -> list[str]:
    if row.skipped:
        return [row.name, row.against or "-", "-", "-", "-", "not measured", "", "", ""]
    return [
        row.name,
        row.against or "-",
        _figure(row.ours, row.unit),
        _figure(row.peer, row.unit),
        _figure(row.ratio, "x"),
        row.goal or "-",
        {True: "met", False: "missed", None: ""}[row.met],
        "" if row.spread is None else f"{row.spread:.0%}",
        str(row.n),
    ]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}"
