"""Benchmarks: our side and its peers, measured in turn in one process on the user's machine.

    harness.py   turns, medians, spread      rows.py      a line of the table, and its goal
    machine.py   where figures come from     scale.py     how much is measured
    official.py  the authors' structure      plain.py     plain loaders
    labels.py    stores without a teacher    photographs.py  JPEG files
    workbench.py shares them                 suite.py     runs all, makes the report

and one module for each part of the table: reading, size, loading, loss, step and epoch (with
training.py), labeling, startup. Each says what is compared with what, and how to read it. How cost
grows with crops, images, m and workers is in growth.py.
"""

from benchmarks.machine import describe_machine, summary
from benchmarks.rows import Row
from benchmarks.suite import ROOMS, BenchConfig, Report, run_bench

__all__ = ["ROOMS", "BenchConfig", "Report", "Row", "describe_machine", "run_bench", "summary"]
