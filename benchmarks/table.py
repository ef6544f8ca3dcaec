"""The printed table of a report: drawn in a terminal, in Markdown elsewhere."""

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row
from benchmarks.suite import Report

_COLUMNS = ("what", "against", "ours", "peer", "ratio", "goal", "", "spread", "n")
_MET = {True: "met", False: "missed", None: ""}


def print_report(report: Report, console: Console) -> None:
    """One table, then what could not be measured, remarks, and how many goals are met."""
    rows = [_cells(row) for row in report.rows]
    if console.is_terminal:
        table = Table(*_COLUMNS, title="medians; ratio: how many times less ours costs")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    else:
        lines = [list(_COLUMNS), ("---",) * len(_COLUMNS), *rows]
        console.print("\n".join(f"| {' | '.join(line)} |" for line in lines), soft_wrap=True)
    for row in report.rows:
        if row.skipped:
            console.print(f"not measured: {row.name}: {row.skipped}", soft_wrap=True)
        if "remark" in row.notes:
            console.print(f"{row.name}: {row.notes['remark']}", soft_wrap=True)
    judged = [row.met for row in report.rows if row.met is not None]
    console.print(f"{sum(judged)} of {len(judged)} goals met; {report.seconds:.0f} s")


def _cells(row: Row) -> list[str]:
    figures = [
        _figure(value, unit)
        for value, unit in ((row.ours, row.unit), (row.peer, row.unit), (row.ratio, "x"))
    ]
    result = "not measured" if row.skipped else _MET[row.met]
    spread = "" if row.spread is None else f"{row.spread:.0%}"
    return [row.name, row.against or "-", *figures, row.goal or "-", result, spread, f"{row.n}"]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}"
