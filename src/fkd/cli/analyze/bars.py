"""Progress of an analysis: one bar on a terminal for each task, one after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from fkd.cli.console import make_bar

Begin = Callable[[str, int], Callable[[int], None]]
"""(what is done, how many) to a function that is told how many more are done."""


@contextmanager
def task_bars(console: Console) -> Iterator[Begin]:
    """Tasks are begun by calling what this yields; the bars vanish at the end."""
    with make_bar(console) as bar:

        def begin(what: str, total: int) -> Callable[[int], None]:
            for earlier in bar.task_ids:
                bar.update(earlier, visible=False)
            task = bar.add_task(what, total=total)
            return lambda count: bar.advance(task, count)

        yield begin
