"""Seconds per epoch of every row: short runs in turns, on a quiet machine.

Accuracy runs may share the machine with anything; these must not. Every repeat trains each row on
the same few images, beginning with another row. An epoch is one crop of every image. All rows with
up to `crops_per_image` crops an image train on the same number of crops; the first half of them
warms up, and the first steps of a pass, in which a checkpoint of the pass before is written, do not
count: in so short a pass it would weigh far more than in a real one.
"""

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import Row
from benchmarks.claims.runs import Say, settings
from benchmarks.harness import relative_range
from benchmarks.training import read_log, seconds_per_crop
from fkd.training.config import TrainConfig
from fkd.training.run import train

_LINES_PER_PASS = 4


def measure_epochs(config: ClaimsConfig, rows: Sequence[Row], say: Say) -> dict[str, list[float]]:
    """Seconds per epoch of each row, one figure a repeat."""
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for repeat in range(config.timing_repeats):
        turn = repeat % len(rows)
        for row in (*rows[turn:], *rows[:turn]):
            seconds[row.name].append(_time(config, row, say))
            say(
                f"timing   {repeat + 1} of {config.timing_repeats}  {row.name}: "
                f"{seconds[row.name][-1]:.2f} s an epoch"
            )
    return seconds


def _time(config: ClaimsConfig, row: Row, say: Say) -> float:
    folder = Path(config.out) / "timing"
    shutil.rmtree(folder, ignore_errors=True)
    run = _short(config, settings(config, row, 0, say), folder)
    train(run)
    lines = read_log(folder)
    seconds = seconds_per_crop(lines, run.crops_per_image, skip_epochs=run.epochs // 2)
    shutil.rmtree(folder)
    return seconds * config.timing_images


def _short(config: ClaimsConfig, run: TrainConfig, folder: Path) -> TrainConfig:
    m = run.crops_per_image
    batches = config.timing_images // config.batch_size  # whole ones: a smaller last one misleads
    return replace(
        run,
        out=str(folder),
        val=None,
        epochs=2 * max(m, config.crops_per_image),
        max_images=batches * config.batch_size,
        log_every=max(1, batches * m // _LINES_PER_PASS),
    )


def relative(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds per epoch of each row, and relative to those of `base`, with its spread.

    The spread is the interquartile range of the ratios of single repeats over their median.
    """
    times = {}
    for name, row_seconds in seconds.items():
        ratios = [a / b for a, b in zip(row_seconds, seconds[base], strict=True)]
        times[name] = {
            "seconds": statistics.median(row_seconds),
            "relative": statistics.median(row_seconds) / statistics.median(seconds[base]),
            "spread": relative_range(ratios),
            "n": len(row_seconds),
        }
    return times


def save(times: dict[str, Any], out: Path) -> None:
    """Keep the figures for the report."""
    (out / "timing.json").write_text(json.dumps(times, indent=1) + "\n", "utf-8")
