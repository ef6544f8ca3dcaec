"""Metrics of a run: metrics.jsonl, TensorBoard events, and callbacks of a progress bar.

Every line of metrics.jsonl has "step" (optimizer steps done) and "epoch"; training lines add "lr",
"loss" and "train_top1", evaluation lines "val_top1" and "val_top5". Only "seconds" and
"crops_per_second" depend on the clock: apart from them, a run that was killed and resumed writes
the same file as one that was not.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fkd.engine.durable import replace_text

METRICS = "metrics.jsonl"
Metrics = Mapping[str, float | int | None]


class Progress(Protocol):
    """Callbacks that report a run's progress; only the main process calls them."""

    def begin(self, step: int, num_steps: int, description: str) -> None:
        """Training starts, or resumes, after `step` of `num_steps` steps."""

    def advance(self, step: int, metrics: Metrics) -> None:
        """`step` steps are done; the newest metrics."""

    def evaluated(self, metrics: Metrics) -> None:
        """A validation is done."""


class MetricsLog:
    """metrics.jsonl and TensorBoard events of one run, continued after `step` steps.

    Args:
        folder: the run folder.
        step: lines of later steps are dropped: they will be written again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._path = folder / METRICS
        replace_text(self._path, "".join(line + "\n" for line in _lines_up_to(self._path, step)))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, metrics: Metrics) -> None:
        """Add one line and the same numbers to TensorBoard."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if name != "step" and value is not None:
                self._board.add_scalar(name, value, int(metrics["step"] or 0))

    def sync(self) -> None:
        """Make the lines so far durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish both files."""
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a metrics.jsonl; none where there is no such file."""
    return [json.loads(line) for line in _lines_up_to(path, step=None)]


def _lines_up_to(path: Path, step: int | None) -> list[str]:
    """Whole lines whose step is not later than `step`; a line torn by a kill is dropped."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            done = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if step is None or done <= step:
            lines.append(line)
    return lines
