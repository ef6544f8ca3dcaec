"""Seconds per epoch of the rows of claim 1 and of every m: short runs in turns, on a quiet machine.

Accuracy runs may share the machine with anything; these must not. Every repeat trains each row for
one pass over the same few images, beginning with another row; an epoch is one crop of every image.
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
from benchmarks.claims.running import Say, settings
from fkd.engine.logging import read_metrics
from fkd.training import train


def measure_epochs(config: ClaimsConfig, rows: Sequence[Row], say: Say) -> dict[str, list[float]]:
    """Seconds per epoch of each row, one figure a repeat."""
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for repeat in range(config.timing_repeats):
        turn = repeat % len(rows)
        for row in (*rows[turn:], *rows[:turn]):
            seconds[row.name].append(_time(config, row, say))
            say(f"timing   {row.name}: {seconds[row.name][-1]:.2f} s an epoch")
    return seconds


def _time(config: ClaimsConfig, row: Row, say: Say) -> float:
    folder = Path(config.out) / "timing"
    shutil.rmtree(folder, ignore_errors=True)
    run = settings(config, row, 0, say)
    m = run.crops_per_image
    short = replace(
        run, out=str(folder), val=None, epochs=m, max_images=config.timing_images, seed=0
    )
    train(short)
    last = read_metrics(folder / "metrics.jsonl")[-1]
    shutil.rmtree(folder)
    return config.timing_images / float(last["crops_per_second"] or 0.0)


def relative(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds per epoch of each row, and relative to those of `base`, with its spread.

    The spread is the interquartile range of the ratios of single repeats over their median.
    """
    found = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "seconds": statistics.median(own),
            "relative": statistics.median(own) / statistics.median(seconds[base]),
            "spread": (high - low) / middle,
            "n": len(own),
        }
    return found


def save(found: dict[str, Any], out: Path) -> None:
    """Keep the figures for the report."""
    (out / "timing.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
