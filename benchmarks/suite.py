"""The list of benchmarks, which of them are run, and the report that is made of their rows."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from benchmarks.inputs import SCALES, Inputs
from benchmarks.machine import describe_machine
from benchmarks.rows import Row, Skipped
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError

BENCHMARKS: dict[str, tuple[str, str]] = {
    "read": ("benchmarks.reading:measure_reading", "reading labels"),
    "bytes": ("benchmarks.reading:measure_bytes", "bytes per crop"),
    "loader": ("benchmarks.loading:measure_loader", "loading crops"),
    "places": ("benchmarks.places:measure_places", "loading from archives and tables"),
    "loss": ("benchmarks.loss:measure_loss", "the loss, forward and backward"),
    "step": ("benchmarks.training:measure_step", "training steps with data from disk"),
    "epoch": ("benchmarks.training:measure_epoch", "epochs against plain training and online KD"),
    "labeling": ("benchmarks.labeling:measure_labeling", "labeling"),
    "startup": ("benchmarks.startup:measure_startup", "starting up, opening a large store"),
    "growth": ("benchmarks.growth:measure_growth", "growth with crops, images, m and workers"),
}
"""What `rows` takes: the function that measures it, and what that is."""

_BY_DEFAULT = [name for name in BENCHMARKS if name not in ("growth", "places")]
_MIN_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure fkd against its peers, side by side on this machine.

    Attributes:
        rows: what is measured, separated by commas: read, bytes, loader, places, loss, step,
            epoch, labeling, startup, growth; by default all but growth and places.
        images: your own images for the loaders and the teacher; by default installed photographs.
        scale: quick (four minutes on two quiet cores), or full for longer runs of everything.
        repeats: of every comparison, at least 5; by default 5 to 9 (full: 11 to 21).
        json: file for the figures, with the machine they come from.
        plot: folder for a picture of the ratios; needs matplotlib (pip install 'fkd[bench]').
    """

    rows: str = ""
    images: ImagesConfig | None = None
    scale: Literal["quick", "full"] = "quick"
    repeats: int | None = None
    json: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in chosen_benchmarks(self) if name not in BENCHMARKS]
        if unknown:
            raise ConfigError(
                f"rows: there is no {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}"
            )
        if self.scale not in SCALES:
            raise ConfigError(f"scale: {self.scale!r} is none of {', '.join(SCALES)}")
        if self.repeats is not None and self.repeats < _MIN_REPEATS:
            raise ConfigError(f"repeats must be at least {_MIN_REPEATS}, got {self.repeats}")
        if self.json is not None and not Path(self.json).absolute().parent.is_dir():
            raise ConfigError(f"json: the folder of {self.json} does not exist; make it first")


@dataclass(frozen=True)
class Report:
    """All rows of a run.

    Attributes:
        machine: where they were measured.
        settings: what was to be measured.
        seconds: that the run took.
        rows: the measurements, skipped ones included.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """All of it as values of JSON."""
        return vars(self) | {"rows": [row.to_json() for row in self.rows]}


def chosen_benchmarks(config: BenchConfig) -> list[str]:
    """Names of what is measured."""
    return [name.strip() for name in config.rows.split(",")] if config.rows else _BY_DEFAULT


def run_benchmarks(
    config: BenchConfig, announce: Callable[[str], None] = lambda text: None
) -> Report:
    """Measure in a temporary folder; `announce` is called with what comes next.

    Raises:
        ConfigError: the images cannot be used, or matplotlib is needed and not installed.
    """
    machine, started, rows = describe_machine(), time.monotonic(), []
    scale, names = SCALES[config.scale], chosen_benchmarks(config)
    if config.repeats is not None:
        scale = replace(scale, repeats=config.repeats, cheap_repeats=config.repeats)
    with tempfile.TemporaryDirectory(prefix="fkd-bench-") as folder:
        inputs = Inputs(Path(folder), scale, config.images, announce)
        for name in names:
            announce(BENCHMARKS[name][1])
            rows += measure(name, inputs)
    settings = {"scale": config.scale, "repeats": config.repeats, "rows": names}
    report = Report(machine, settings, round(time.monotonic() - started, 1), rows)
    if config.json is not None:
        text = json.dumps(report.to_json(), indent=1)
        Path(config.json).write_text(text + "\n", "utf-8")
    if config.plot is not None:
        from benchmarks.plot import plot_rows

        Path(config.plot).mkdir(parents=True, exist_ok=True)
        plot_rows(rows, Path(config.plot) / "ratios.png")
    return report


def measure(name: str, inputs: Inputs) -> list[Row]:
    """The rows of one benchmark; one that cannot be measured here says why."""
    module, function = BENCHMARKS[name][0].split(":")
    try:
        rows: list[Row] = getattr(import_module(module), function)(inputs)
    except Skipped as reason:
        return [Row(name=BENCHMARKS[name][1], skipped=str(reason))]
    return rows
