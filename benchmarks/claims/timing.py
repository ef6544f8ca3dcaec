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
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import Row
from benchmarks.claims.running import Say, settings
from benchmarks.harness import relative_range
from fkd.engine.logging import read_metrics
from fkd.training import TrainConfig, train

_LINES_A_PASS = 4


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
    lines = read_metrics(folder / "metrics.jsonl")
    seconds = steady_seconds(lines, run.epochs, run.crops_per_image)
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
        log_every=max(1, batches * m // _LINES_A_PASS),
    )


def steady_seconds(lines: Sequence[dict[str, float | None]], epochs: int, of_a_pass: int) -> float:
    """Seconds per crop in the second half of a run, without the first lines of its passes.

    Args:
        lines: of metrics.jsonl; each tells the crops per second since the one before.
        epochs: of the run.
        of_a_pass: epochs of a pass.
    """
    crops, seconds = 0.0, 0.0  # crops in epochs: their number of images cancels
    for before, line in pairwise(lines):
        begun, done = float(before["epoch"] or 0.0), float(line["epoch"] or 0.0)
        if begun >= epochs / 2 and begun % of_a_pass and done > begun:
            crops += done - begun
            seconds += (done - begun) / float(line["crops_per_second"] or 0.0)
    return seconds / crops


def relative(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds per epoch of each row, and relative to those of `base`, with its spread.

    The spread is the interquartile range of the ratios of single repeats over their median.
    """
    found = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[base], strict=True)]
        found[name] = {
            "seconds": statistics.median(own),
            "relative": statistics.median(own) / statistics.median(seconds[base]),
            "spread": relative_range(ratios),
            "n": len(own),
        }
    return found


def save(found: dict[str, Any], out: Path) -> None:
    """Keep the figures for the report."""
    (out / "timing.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
