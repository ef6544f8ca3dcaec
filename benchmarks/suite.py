"""All measurements, one after the other, and the report that is made of them."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.machine import describe_machine
from benchmarks.rows import Row
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.workbench import Workbench
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, FKDError

ScaleName = Literal["quick", "full"]
ROOMS: dict[str, tuple[str, str]] = {
    "read": ("reading", "reading labels"),
    "bytes": ("size", "bytes per crop"),
    "loader": ("loading", "loading crops"),
    "loss": ("loss", "the loss, forward and backward"),
    "step": ("step", "training steps with data from disk"),
    "epoch": ("epoch", "epochs against plain training and online distillation"),
    "labeling": ("labeling", "labeling"),
    "startup": ("startup", "starting up, opening a large store"),
}
"""What --rows takes: module of this package, and what it measures."""

_SCALES = {"quick": QUICK, "full": FULL}
_LEAST_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure fkd against its peers, side by side on this machine; about five minutes.

    Attributes:
        rows: what is measured, with commas in between: read, bytes, loader, loss, step, epoch,
            labeling, startup; by default all.
        json: file for the figures, with the machine they come from.
        images: your own images for the loaders and the teacher; by default installed photographs.
        scale: quick, or full for longer runs of everything (half an hour).
        repeats: of every comparison, at least 5; by default 5 to 9 (full: 11 to 21).
    """

    rows: str = ""
    json: str | None = None
    images: ImagesConfig | None = None
    scale: ScaleName = "quick"
    repeats: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in chosen_rooms(self) if name not in ROOMS]
        if unknown:
            raise ConfigError(f"rows: there is no {unknown[0]!r}; choose from {', '.join(ROOMS)}")
        if self.scale not in get_args(ScaleName):
            raise ConfigError(f"scale: {self.scale!r} is none of {', '.join(get_args(ScaleName))}")
        if self.repeats is not None and self.repeats < _LEAST_REPEATS:
            raise ConfigError(
                f"repeats must be at least {_LEAST_REPEATS}, got {self.repeats}; fewer say nothing"
            )
        if self.json is not None and not Path(self.json).absolute().parent.is_dir():
            raise ConfigError(f"json: the folder of {self.json} does not exist; make it first")


@dataclass(frozen=True)
class Report:
    """All rows of a run.

    Attributes:
        machine: where they were measured.
        rows: the measurements, skipped ones included.
        seconds: that the run took.
        settings: what was asked for.
    """

    machine: dict[str, Any]
    rows: list[Row]
    seconds: float
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it as values of JSON."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "seconds": round(self.seconds, 1),
            "rows": [row.to_json() for row in self.rows],
        }

    def write(self, file: str | Path) -> None:
        """Write the JSON file."""
        Path(file).write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")


def chosen_rooms(config: BenchConfig) -> list[str]:
    """Names of what is measured."""
    return [name.strip() for name in config.rows.split(",")] if config.rows else [*ROOMS]


def run_bench(config: BenchConfig, announce: Callable[[str], None] = lambda what: None) -> Report:
    """Measure what is asked for; `announce` is told what comes next.

    Raises:
        ConfigError: the images cannot be used.
    """
    scale = _SCALES[config.scale]
    if config.repeats is not None:
        scale = replace(scale, repeats=config.repeats, cheap_repeats=config.repeats)
    rooms = chosen_rooms(config)
    settings = {"scale": config.scale, "repeats": config.repeats, "rows": rooms}
    report = measure_rooms(rooms, scale, config.images, announce, settings)
    if config.json is not None:
        report.write(config.json)
    return report


def measure_rooms(
    names: Sequence[str],
    scale: Scale,
    images: ImagesConfig | None = None,
    announce: Callable[[str], None] = lambda what: None,
    settings: dict[str, Any] | None = None,
) -> Report:
    """The rows of some rooms, in a temporary folder."""
    machine, started = describe_machine(), time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fkd-bench-") as folder:
        bench = Workbench(Path(folder), scale, images, announce)
        for name in names:
            announce(ROOMS[name][1])
            rows += _measure_room(name, bench)
    return Report(machine, rows, time.monotonic() - started, dict(settings or {}))


def _measure_room(name: str, bench: Workbench) -> list[Row]:
    """The rows of one room; what cannot be measured here says why."""
    measure: Callable[[Workbench], list[Row]] = import_module(
        f"benchmarks.{ROOMS[name][0]}"
    ).measure
    try:
        return measure(bench)
    except FKDError as reason:
        return [Row(name=ROOMS[name][1], skipped=str(reason))]
