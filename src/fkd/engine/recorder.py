"""The records of a run in progress: log lines, checkpoints, a progress bar."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkd.data.batches import Batch
from fkd.engine.checkpoint import Checkpoints, State
from fkd.engine.logging import Metrics, MetricsLog, Progress
from fkd.engine.order import StepInfo
from fkd.engine.state import TrainState
from fkd.engine.trackers import TENSORBOARD, Trackers, parse_trackers
from fkd.errors import RunError


@torch.no_grad()
def count_crops(loss: Tensor, outputs: Tensor | tuple[Tensor, ...], batch: Batch) -> Tensor:
    """Float32 (4,): loss summed over the crops, hits, crops of a known class, crops.

    Stays on the device: reading the numbers would wait for the computation. Of several outputs the
    first counts, and a mixed crop has no class.
    """
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    crops = torch.tensor(float(len(logits)), device=logits.device)
    hits = known = torch.zeros_like(crops)
    if batch.mix is None:
        hits = (logits.argmax(1) == batch.labels).sum().float()
        known = (batch.labels >= 0).sum().float()
    return torch.stack([loss.detach().float() * crops, hits, known, crops])


@dataclass(frozen=True)
class Measure:
    """What is counted in every step, and what a log line makes of it.

    Attributes:
        num_counts: how many numbers; the first is the loss, summed over what the last one counts.
        describe: members of a log line from the numbers and the seconds since the line before.
    """

    num_counts: int
    describe: Callable[[Sequence[float], float], Metrics]


def _describe_crops(counts: Sequence[float], seconds: float) -> Metrics:
    loss, hits, known, crops = counts
    return {
        "loss": loss / crops,
        "train_top1": 100.0 * hits / known if known else None,
        "crops_per_second": crops / seconds,
    }


CROPS = Measure(4, _describe_crops)
"""What `count_crops` counts."""


class Recorder:
    """Keeps the records of one run.

    Every process has one and counts the same; only the main process has files and a progress bar.

    Args:
        state: what is trained.
        log_every: optimizer steps between two lines of metrics.jsonl.
        checkpoint_seconds: time between two checkpoints inside a pass.
        log: metrics.jsonl; on the main process.
        checkpoints: on the main process.
        progress: what the caller passed; on the main process.
        resumed: the checkpoint that the run resumes from, if it does.
        measure: what is counted.
    """

    def __init__(
        self,
        state: TrainState,
        *,
        log_every: int,
        checkpoint_seconds: float,
        log: MetricsLog | None,
        checkpoints: Checkpoints | None,
        progress: Progress | None,
        resumed: State | None,
        measure: Measure = CROPS,
    ) -> None:
        self._state = state
        self._measure = measure
        self._log_every = log_every
        self._checkpoint_seconds = checkpoint_seconds
        self._log = log
        self._checkpoints = checkpoints
        self._progress = progress
        self._began = self._saved = self._logged = time.monotonic()
        self._seconds_before = resumed["seconds"] if resumed else 0.0
        counts = resumed["counts"] if resumed else torch.zeros(measure.num_counts)
        self._counts = counts.to(state.accelerator.device)
        self._metrics: Metrics = {}

    @property
    def seconds(self) -> float:
        """Training time of the run so far, without what a kill has undone."""
        return self._seconds_before + time.monotonic() - self._began

    def trained(self, info: StepInfo, lr: float, counts: Tensor) -> None:
        """A step is done; `counts` are those of the measure, summed over all processes.

        Raises:
            RunError: the loss is not finite.
        """
        self._counts += counts
        if self._state.step % self._log_every == 0 or info.ends_pass:
            self._write_training_line(info, lr)
        if self._progress is not None:
            self._progress.advance(self._state.step, self._metrics)

    def evaluated(self, info: StepInfo, metrics: Metrics) -> None:
        """The student was evaluated."""
        line = {
            "step": self._state.step,
            "epoch": info.epoch_after,
            **metrics,
            "seconds": self.seconds,
        }
        if self._log is not None:
            self._log.write(line)
        if self._progress is not None:
            self._progress.evaluated(line)
        self._logged = time.monotonic()

    def checkpoint(self, *, now: bool) -> None:
        """Write a checkpoint, if it is time or `now`.

        Raises:
            RunError: the loss is not finite (the checkpoint before stays), or the disk refuses.
        """
        due = time.monotonic() - self._saved >= self._checkpoint_seconds
        if self._checkpoints is None or self._log is None or not (now or due):
            return
        self._require_finite(self._counts[0].item())
        self._log.sync()
        state: dict[str, Any] = self._state.state()
        state |= {"seconds": self.seconds, "counts": self._counts.cpu()}
        self._checkpoints.save(self._state.step, state)
        self._saved = time.monotonic()

    def _write_training_line(self, info: StepInfo, lr: float) -> None:
        counts = self._counts.tolist()
        self._require_finite(counts[0])
        now = time.monotonic()
        self._metrics = {
            "step": self._state.step,
            "epoch": info.epoch_after,
            "lr": lr,
            **self._measure.describe(counts, now - self._logged),
            "seconds": self.seconds,
        }
        if self._log is not None:
            self._log.write(self._metrics)
        self._counts.zero_()
        self._logged = now

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {self._state.step}; lower optimizer.lr, set "
                "clip_grad, or use amp no, with another --out if this one has checkpoints"
            )


@contextmanager
def recording(
    folder: Path,
    state: TrainState,
    checkpoints: Checkpoints,
    progress: Progress,
    *,
    settings: Mapping[str, Any],
    trackers: str,
    resumed: State | None,
    log_every: int,
    checkpoint_seconds: float,
    measure: Measure = CROPS,
) -> Iterator[Recorder]:
    """The records of a run in its folder, which the main process writes.

    Args:
        folder: of the run.
        state: at the step where it begins or resumes.
        checkpoints: of the run.
        progress: told of every step.
        settings: of the run, nested; trackers show them.
        trackers: which, as `parse_trackers` takes them.
        resumed: the checkpoint that the run resumes from, if it does.
        log_every: steps between two log lines.
        checkpoint_seconds: between two checkpoints.
        measure: what is counted.

    Raises:
        RunError: the files cannot be written.
        ConfigError: a tracker cannot start.
    """
    main = state.accelerator.is_main_process
    with ExitStack() as opened:
        log = _open_log(folder, state.step, settings, trackers, progress) if main else None
        if log is not None:
            opened.enter_context(closing(log))
        yield Recorder(
            state,
            log_every=log_every,
            checkpoint_seconds=checkpoint_seconds,
            log=log,
            checkpoints=checkpoints if main else None,
            progress=progress,
            resumed=resumed,
            measure=measure,
        )


def _open_log(
    folder: Path, step: int, settings: Mapping[str, Any], trackers: str, progress: Progress
) -> MetricsLog:
    """The log of the main process, with its trackers."""
    names = parse_trackers(trackers)
    others = [name for name in names if name != TENSORBOARD]
    services = Trackers(others, folder, settings, progress.warn) if others else None
    return MetricsLog(folder, step, tensorboard=TENSORBOARD in names, trackers=services)
