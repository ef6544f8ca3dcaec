"""All runs, seed by seed, so that early reports have every row."""

import time
from pathlib import Path
from typing import Any

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.networks import measure_networks, measure_teacher
from benchmarks.claims.report import write_report
from benchmarks.claims.rows import BASE, all_rows
from benchmarks.claims.runs import Say, run_row
from benchmarks.claims.timing import measure_epochs, relative, save
from benchmarks.machine import describe_machine


def run_claims(config: ClaimsConfig, say: Say) -> str:
    """Train, or time, what is not finished; returns the tables."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    if config.timing:
        rows = {row.name: row for row in (BASE, *all_rows(config))}
        timed = [row for row in rows.values() if row.starts_from is None]  # others cost the same
        save(relative(measure_epochs(config, timed, say), BASE.name), out)
        measure_networks(config)
    else:
        measure_teacher(config)
        _train_all(config, machine, say)
    return write_report(config, machine)


def _train_all(config: ClaimsConfig, machine: dict[str, Any], say: Say) -> None:
    rows = all_rows(config)
    runs = [(row, seed) for seed in range(config.seeds) for row in rows]
    started, trained = time.monotonic(), 0
    for done, (row, seed) in enumerate(runs):
        result = run_row(config, row, seed, say)
        trained += not result.already_finished
        write_report(config, machine, pictures=False)  # pictures wait for the end
        seconds_per_run = (time.monotonic() - started) / max(trained, 1)
        left = seconds_per_run * (len(runs) - done - 1) / 60
        say(
            f"run {done + 1} of {len(runs)}  {row.name}, seed {seed}: top-1 "
            f"{result.val_top1:.2f} %, {result.seconds:.0f} s; at most {left:.0f} min left"
        )
