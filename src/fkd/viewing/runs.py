"""What the folder of a run says, as far as it can be read: settings, machine, metrics, and notes.

Runs that were killed, are still at work, or were written by other verbs are shown as far as they
go; whatever is missing or odd becomes a note, not an error.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fkd.engine.logging import METRICS
from fkd.errors import ConfigError, reason_of
from fkd.userfiles import home_path, os_reason

# Those of `fkd.engine.run_folder`, which brings torch.
CONFIG, ENVIRONMENT, FINAL_WEIGHTS = "config.yaml", "env.json", "model.safetensors"

_MOST_SETTINGS = 5000  # aliases of a YAML file can stand for more than memory holds
Line = dict[str, float]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: shortest end of its path that no other run has.
        path: of its folder, as given.
        settings: dotted names and values of config.yaml.
        environment: dotted names and values of env.json.
        lines: those of metrics.jsonl; only finite numbers are kept.
        finished: whether its final weights are there.
        notes: what a reader should know, a sentence each.
    """

    name: str
    path: Path
    settings: dict[str, Any]
    environment: dict[str, Any]
    lines: list[Line]
    finished: bool
    notes: list[str] = field(default_factory=list)

    @property
    def x_axis(self) -> str:
        """What curves are drawn over: "epoch" where the lines have it, else "step"."""
        return "epoch" if any("epoch" in line for line in self.lines) else "step"

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """(epoch or step, value) of each line that has the metric."""
        axis = self.x_axis
        return [(line[axis], line[metric]) for line in self.lines if {axis, metric} <= line.keys()]


def read_runs(paths: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The runs in these folders, each once, in the given order; and a sentence on what is left out.

    A pattern such as `runs/*` also finds files and folders that are no runs: these are left out.

    Raises:
        ConfigError: a path does not exist or cannot be opened, or none is the folder of a run.
    """
    given = list(dict.fromkeys(home_path(path) for path in paths))
    are_runs = [_is_run(path) for path in given]
    folders = [path for path, is_run in zip(given, are_runs, strict=True) if is_run]
    others = [str(path) for path, is_run in zip(given, are_runs, strict=True) if not is_run]
    if not folders:
        what = f"{others[0]} is not the folder of a run" if others else "none are given"
        raise ConfigError(
            f"runs: {what}, which has a {CONFIG} and a {METRICS}; give folders that `fkd train` "
            "wrote"
        )
    names = _short_names(folders)
    runs = [_read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    said = f"Left out, as they are no folders of runs: {', '.join(others)}."
    return runs, [said] if others else []


def _is_run(path: Path) -> bool:
    """Whether a path leads to a folder that a run has begun.

    Raises:
        ConfigError: it cannot be opened.
    """
    try:
        return bool(set(os.listdir(path)) & {CONFIG, METRICS})
    except NotADirectoryError:
        return False
    except OSError as error:
        raise ConfigError(
            f"runs: {path} cannot be opened: {os_reason(error)}; give folders that `fkd train` "
            "wrote"
        ) from error


def _read_run(folder: Path, name: str) -> Run:
    notes: list[str] = []
    settings = _read_settings(folder / CONFIG, yaml.safe_load, notes)
    environment = _read_settings(folder / ENVIRONMENT, json.loads, notes)
    lines = _read_lines(folder / METRICS, notes)
    finished = (folder / FINAL_WEIGHTS).is_file()
    if not finished:
        notes.insert(0, _how_far(lines, settings))
    return Run(name, folder, settings, environment, lines, finished, notes)


def _read_settings(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """Dotted names and values of a small file; none, with a note, where it cannot be read."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no settings by name")
        flat: dict[str, Any] = {}
        _flatten(content, "", flat)
        return flat
    except FileNotFoundError:
        notes.append(f"{path.name} is missing, so what it would say is not shown.")
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {os_reason(error)}.")
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        notes.append(f"{path.name} is damaged: {reason_of(error)}.")
    return {}


def _flatten(value: Mapping[Any, Any], prefix: str, flat: dict[str, Any]) -> None:
    """Add nested settings by dotted names; lists of settings by their numbers."""
    for name, item in value.items():
        nested = isinstance(item, list) and item and all(isinstance(i, dict) for i in item)
        inner = dict(enumerate(item)) if nested else item
        if isinstance(inner, dict) and inner:
            _flatten(inner, f"{prefix}{name}.", flat)
        else:
            flat[f"{prefix}{name}"] = inner
        if len(flat) > _MOST_SETTINGS:
            raise ValueError(f"it has more than {_MOST_SETTINGS:,} settings")


def _read_lines(path: Path, notes: list[str]) -> list[Line]:
    """The numbers of each line of metrics.jsonl, with notes on lines and numbers left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"{path.name} is missing: nothing was logged yet.")
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {os_reason(error)}.")
        return []
    written = [line for line in text.split("\n") if line.strip()]
    parsed = [_parse_line(line) for line in written]
    lines = [line for line in parsed if line is not None]
    torn, last_torn = parsed.count(None), bool(parsed) and parsed[-1] is None
    if torn:
        reason = " (a kill tears the line that is being written)" if last_torn else ""
        notes.append(f"{_count(torn, 'line')} of {path.name} could not be read{reason}.")
    unusable = sum(line.pop("", 0) for line in lines)
    if unusable:
        notes.append(f"{_count(int(unusable), 'number')} of {path.name} are NaN or infinite.")
    if not lines and not torn:
        notes.append(f"{path.name} is empty: nothing was logged yet.")
    return lines


def _parse_line(text: str) -> Line | None:
    """The numbers of a line; those that are not finite are counted under the empty name."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    values = {name: _number(value) for name, value in content.items() if name}
    numbers = {name: value for name, value in values.items() if value is not None}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    if not finite.keys() & {"step", "epoch"}:
        return None
    lost = len(numbers) - len(finite)
    return finite | ({"": float(lost)} if lost else {})


def _number(value: Any) -> float | None:
    """A number of JSON, infinite where it is too large for a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _how_far(lines: Sequence[Line], settings: Mapping[str, Any]) -> str:
    """That a run is not finished, and how far it is."""
    last = lines[-1] if lines else {}
    planned = settings.get("epochs")
    if "epoch" not in last:
        return "The run is not finished: it has no final weights."
    of = f" of {planned}" if isinstance(planned, int) else ""
    return f"The run is not finished: its last line is of epoch {last['epoch']:.4g}{of}."


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of these paths that tell them apart."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
