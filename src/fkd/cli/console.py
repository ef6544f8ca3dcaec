"""What all verbs print to: a console that wraps no lines, and one kind of progress bar.

Names of images, classes and teachers are data. Whatever a verb prints goes through this console,
which takes no markup and spells out control characters.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fkd.errors import escape_controls


class PlainConsole(Console):
    """Standard output on which a text is nothing but text: lines, cells of tables and titles.

    Without colored numbers or line breaks of its own. A style is given as one, not in the text.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """The text with control characters spelled out; rich calls this for every str."""
        return super().render_str(escape_controls(text), **kwargs)


def make_console() -> Console:
    """The console of a verb."""
    return PlainConsole()


def make_bar(
    console: Console,
    *columns: ProgressColumn,
    transient: bool = True,
    counts: ProgressColumn | None = None,
) -> Progress:
    """A progress bar, with more columns before the time; nothing outside a terminal.

    Args:
        console: where it is drawn.
        columns: shown between the counts and the remaining time.
        transient: whether it vanishes at its end.
        counts: what shows how much is done; by default the number of all.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        counts or MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def print_below(console: Console, name: str, lines: Sequence[str]) -> None:
    """Lines of which the first begins with a name, and the others stand below it."""
    for number, line in enumerate(lines):
        console.print(f"{'' if number else name:10}{line}")


def print_remark(console: Console, text: str) -> None:
    """One line that begins with "note"."""
    console.print(f"note      {text}")


def print_warning(console: Console, text: str) -> None:
    """One line that begins with "warning"."""
    console.print(f"warning   {text}", style="yellow")


def format_size(num_bytes: int) -> str:
    """For example "7.28 GB"."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def format_duration(seconds: float) -> str:
    """For example "12 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
