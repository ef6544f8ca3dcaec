"""`fkd demo`: labeling, checking and training on bundled real images."""

import time

from rich.console import Console
from rich.table import Table

from fkd.cli.console import make_console
from fkd.demo.digits import DigitsResult, compare_methods
from fkd.demo.photographs import PhotographsResult, label_photographs
from fkd.userfiles import home_path


def demo(*, out: str = "demo-output") -> None:
    """Label real photographs, look at the labels, then train one student four ways.

    Args:
        out: folder for images, stores, runs and the page; what exists already is kept.
    """
    console, started = make_console(), time.monotonic()
    console.print("1. An ImageNet teacher labels real photographs", style="bold")
    folder = home_path(out)
    _print_photographs(label_photographs(folder), console)
    console.print()
    console.print("2. One small student, four ways, on real handwritten digits", style="bold")
    _print_digits(compare_methods(folder, lambda what: console.print(f"  {what}")), console)
    console.print()
    console.print(f"{time.monotonic() - started:.0f} s; everything is in {out}")


def _print_photographs(result: PhotographsResult, console: Console) -> None:
    table = Table("photograph", "size", "mean label of all crops")
    for photograph in result.photographs:
        pairs = zip(photograph.classes, photograph.probabilities, strict=True)
        height, width = photograph.size
        seen = ", ".join(f"{name} {p:.2f}" for name, p in pairs)
        table.add_row(photograph.name, f"{width} x {height}", seen)
    console.print(table, soft_wrap=False)
    intact = "every byte is intact" if not result.problems else f"PROBLEMS: {result.problems}"
    console.print(f"store: {result.bytes_per_crop:.1f} bytes per crop; {intact}")
    console.print(f"checked: {result.spot_checks}")
    console.print(f"look at all crops: {result.page}")


def _print_digits(result: DigitsResult, console: Console) -> None:
    table = Table(
        "trained with",
        "held-out top-1",
        "s / epoch",
        "relative to plain",
        "label bytes / image",
        title=f"{result.num_train:,} digits, {result.num_test:,} held out; one seed",
    )
    for row in result.rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.1f} %",
            f"{row.seconds_per_epoch:.2f}",
            f"{row.relative_time:.2f} x",
            f"{row.label_bytes:.0f}",
        )
    console.print(table, soft_wrap=False)
    console.print(
        f"teacher: {result.teacher_accuracy:.1f} %; its labels took "
        f"{result.labeling_seconds:.1f} s once, for any number of students"
    )
