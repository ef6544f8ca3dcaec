"""The folder of a run: who may write it, with which settings, and whether it is finished.

RUN/config.yaml        the settings, as `--config` reads them
RUN/env.json           seed, data, commit, versions and hardware of the first start
RUN/metrics.jsonl      one line per log entry
RUN/tensorboard/       the same for TensorBoard
RUN/checkpoints/       the newest two; a run that is started again resumes from the newest
RUN/classes.json       class names in the order of the outputs
RUN/student.json       architecture and input of the student
RUN/model.safetensors  the final weights; written last: its presence means "finished"
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fkd.engine.checkpoint import Checkpoints
from fkd.engine.durable import replace_text
from fkd.errors import RunError

FINAL_WEIGHTS = "model.safetensors"
_CONFIG, _ENVIRONMENT = "config.yaml", "env.json"

Settings = Mapping[str, Any]


@contextmanager
def open_run_folder(
    path: Path,
    settings: Settings,
    environment: Settings,
    *,
    free: frozenset[str],
    main: bool = True,
) -> Iterator[Checkpoints]:
    """Create the folder of a run, or resume one of the same settings; yields its checkpoints.

    Until the context is left, no other process can open the folder.

    Args:
        path: new, empty, or the folder of an earlier start of the same run.
        settings: all settings, nested; written to config.yaml.
        environment: written to env.json; its "data" is part of the run's identity.
        free: dotted names of settings that may change between starts.
        main: whether this is the run's main process; others only read.

    Raises:
        RunError: the folder holds something else, was made with other settings or data (every
            differing field is named), or another process is training in it.
    """
    identity = [_identity(settings, free), environment["data"]]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    checkpoints = Checkpoints(path / "checkpoints", digest)
    if not main:
        yield checkpoints
        return
    lock = _take_lock(path)
    try:
        _prepare(path, settings, environment, free)
        yield checkpoints
    finally:
        os.close(lock)


def is_finished(path: Path, settings: Settings, *, free: frozenset[str]) -> bool:
    """Whether there is a finished run of these settings; reads only.

    Raises:
        RunError: there is a run with other settings; every differing field is named.
    """
    if not (path / _CONFIG).exists():
        return False
    old = _identity(_read(path / _CONFIG, yaml.safe_load), free)
    _require_equal(path, old, _identity(settings, free))
    return (path / FINAL_WEIGHTS).exists()


def _take_lock(path: Path) -> int:
    """Hold the folder until the process ends; the kernel lets go when it is killed.

    A POSIX record lock: unlike that of `flock` it is not inherited by the loader's processes, which
    outlive a killed run by seconds and would shut its successor out.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RunError(
            f"another process is training in {path}; wait for it, or give another --out"
        ) from error
    return descriptor


def _prepare(path: Path, settings: Settings, environment: Settings, free: frozenset[str]) -> None:
    if (path / _CONFIG).exists() and (path / _ENVIRONMENT).exists():
        old = _identity(_read(path / _CONFIG, yaml.safe_load), free)
        old |= _flatten({"data": _read(path / _ENVIRONMENT, json.loads).get("data", {})})
        new = _identity(settings, free) | _flatten({"data": environment["data"]})
        _require_equal(path, old, new)
        return
    ours = {"lock", _CONFIG, _ENVIRONMENT}
    foreign = [
        entry.name for entry in path.iterdir() if entry.name.removesuffix(".tmp") not in ours
    ]
    if foreign:
        raise RunError(
            f"{path} is not empty and not the folder of a run ({min(foreign)} is in it); give "
            "another --out"
        )
    replace_text(path / _ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
    replace_text(path / _CONFIG, yaml.safe_dump(_plain(settings), sort_keys=False))


def _read(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read ({error}); give another --out") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged; give another --out")
    return content


def _require_equal(path: Path, old: Settings, new: Settings) -> None:
    absent = object()
    differing = [
        f"{name} was {old.get(name)}, now {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, absent) != new.get(name, absent)
    ]
    if differing:
        raise RunError(
            f"{path} was started with other settings: {'; '.join(differing)}; use those, or give "
            "another --out"
        )


def _identity(settings: Settings, free: frozenset[str]) -> dict[str, Any]:
    """Dotted names and values of the settings that must not change."""
    return {name: value for name, value in _flatten(settings).items() if name not in free}


def _flatten(settings: Settings, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in _plain(settings).items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    """The value as YAML and JSON know it: tuples become lists."""
    plain: Any = json.loads(json.dumps(value))
    return plain
