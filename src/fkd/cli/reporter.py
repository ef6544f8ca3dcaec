"""Shows a run on a terminal: a bar, and a line for each pass; elsewhere the lines alone."""

from abc import ABC, abstractmethod

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn

from fkd.cli.console import make_bar, print_remark, print_warning
from fkd.engine.logging import Metrics, Progress


class RunReporter(Progress, ABC):
    """What is the same for runs of all kinds; their lines differ.

    Args:
        console: where to print.

    Attributes:
        console: the same.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._newest: Metrics = {}

    @abstractmethod
    def numbers(self, metrics: Metrics) -> str:
        """The newest training line in words."""

    @abstractmethod
    def measured(self, metrics: Metrics) -> str:
        """A validation in words."""

    def close(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def remark(self, text: str) -> None:
        """Print a line that begins with "note"."""
        print_remark(self.console, text)

    def warn(self, text: str) -> None:
        """Print a line that begins with "warning"."""
        print_warning(self.console, text)

    def show_bar(self, step: int, num_steps: int) -> None:
        """Say where the run resumes, and show a bar on a terminal."""
        if step:
            self.console.print(f"resumed   after step {step:,} of {num_steps:,}")
        if self.console.is_terminal:
            numbers = TextColumn("{task.fields[numbers]}", markup=False)
            self._bar = make_bar(self.console, numbers, transient=False)
            self._bar.add_task("steps", total=num_steps, completed=step, numbers="")
            self._bar.start()

    def advance(self, step: int, metrics: Metrics) -> None:
        """Move the bar; outside a terminal, print a line for each new line of metrics.jsonl."""
        new, self._newest = metrics is not self._newest, metrics
        numbers = self.numbers(metrics) if metrics else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, numbers=numbers)
        elif new and metrics:
            self.console.print(f"{_where(metrics)}  {numbers}")

    def evaluated(self, metrics: Metrics) -> None:
        """Print what was measured after a pass."""
        self.console.print(f"{_where(metrics)}  {self.measured(metrics)}")


def _where(metrics: Metrics) -> str:
    return f"epoch {metrics['epoch']:7.2f}  step {metrics['step']:,}"
