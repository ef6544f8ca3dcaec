"""Metrics of a run: metrics.jsonl, TensorBoard events, trackers, and a progress bar's callbacks.

Every line of metrics.jsonl has "step" (optimizer steps done) and "epoch"; training lines add "lr",
"loss" and "train_top1", evaluation lines "val_top1" and "val_top5", of a student of embeddings
"val_knn", on images with several classes "val_map". Only "seconds" and "crops_per_second" depend on
the clock: apart from them, a run that was killed and resumed writes the same file as one that was
not.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fkd.engine.durable import reading, replace_text, writing
from fkd.engine.trackers import TENSORBOARD, Trackers
from fkd.errors import RunError

METRICS = "metrics.jsonl"
Metrics = Mapping[str, float | int | None]


class Progress:
    """Is called by process 0 of a run while it works; this base class ignores every call."""

    def remark(self, text: str) -> None:
        """Something that the user may want to know, in one sentence."""

    def warn(self, text: str) -> None:
        """Something that is probably wrong, and the way out."""

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
        tensorboard: whether there are events for TensorBoard.
        trackers: services that are told, too.

    Raises:
        RunError: the files cannot be written.
    """

    def __init__(
        self, folder: Path, step: int, *, tensorboard: bool = True, trackers: Trackers | None = None
    ) -> None:
        self._path, self._events = folder / METRICS, folder / TENSORBOARD
        self._trackers, self._board = trackers, None
        replace_text(self._path, "".join(line + "\n" for line in _lines_up_to(self._path, step)))
        with writing(self._path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - see close()
        try:
            with writing(self._events):
                self._board = _open_board(self._events, step + 1) if tensorboard else None
        except RunError:
            self._file.close()
            raise

    def write(self, metrics: Metrics) -> None:
        """Add one line, and give the same numbers to TensorBoard and the trackers.

        Raises:
            RunError: the disk is full or refuses; so do `sync` and `close`.
        """
        with writing(self._path):
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()
        with writing(self._events):
            for name, value in metrics.items():
                if self._board is not None and name != "step" and value is not None:
                    self._board.add_scalar(name, value, int(metrics["step"] or 0))
        if self._trackers is not None:
            self._trackers.write(metrics)

    def sync(self) -> None:
        """Make the lines so far durable."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish both files."""
        try:
            with writing(self._path):
                self._file.close()
        finally:
            if self._trackers is not None:
                self._trackers.close()
            with writing(self._events):
                if self._board is not None:
                    self._board.close()


def _open_board(folder: Path, purge_step: int) -> Any:
    """Writes events for TensorBoard; those from a step on are dropped."""
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    _say_errors_once()
    return SummaryWriter(str(folder), purge_step=purge_step)


class _ThreadHook:
    """What Python calls when a thread ends by an exception; prints no traceback of a full disk.

    TensorBoard writes from a thread and raises that thread's error again in the thread that called
    it, where it becomes a RunError: a second report would only hide its sentence.
    """

    def __init__(self, before: Callable[[threading.ExceptHookArgs], object]) -> None:
        self._before = before

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        """Hand on everything else."""
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and issubclass(args.exc_type, OSError)):
            self._before(args)


def _say_errors_once() -> None:
    """Stays until the program ends: the thread may report its error after the run did."""
    if not isinstance(threading.excepthook, _ThreadHook):
        threading.excepthook = _ThreadHook(threading.excepthook)


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a metrics.jsonl; none where there is no such file.

    Raises:
        RunError: it cannot be read.
    """
    return [json.loads(line) for line in _lines_up_to(path, step=None)]


def _lines_up_to(path: Path, step: int | None) -> list[str]:
    """Whole lines whose step is not later than `step`; a line torn by a kill is dropped."""
    text, lines = "", []
    with reading(path), suppress(FileNotFoundError):
        text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            done = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if step is None or done <= step:
            lines.append(line)
    return lines
