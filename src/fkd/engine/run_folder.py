"""The folder of a run: who may write it, with which settings, and whether it is finished.

RUN/config.yaml        the settings, as `--config` reads them
RUN/env.json           seed, data, commit, versions and hardware of the first start
RUN/metrics.jsonl      one line per log entry
RUN/tensorboard/       the same for TensorBoard
RUN/trackers.json      what services of `trackers` call the run
RUN/checkpoints/       the newest two; a run that is started again resumes from the newest
RUN/config.json        the student: architecture, input and class names, as timm writes them
RUN/model.safetensors  the final weights; written last: its presence means "finished"
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fkd.engine.checkpoint import Checkpoints
from fkd.engine.durable import list_folder, reading, replace_text, writing
from fkd.engine.logging import METRICS
from fkd.engine.trackers import IDS, TENSORBOARD
from fkd.errors import RunError
from fkd.userfiles import os_reason

try:
    import fcntl
except ImportError:  # Windows, where models are evaluated and stores read
    fcntl = None  # type: ignore[assignment]

FINAL_WEIGHTS = "model.safetensors"
CHECKPOINTS = "checkpoints"
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
    checkpoints = Checkpoints(path / CHECKPOINTS, digest)
    if not main:
        yield checkpoints
        return
    is_finished(path, settings, environment, free=free)  # before anything is written
    lock = _take_lock(path)
    try:
        _prepare(path, settings, environment, free)
        yield checkpoints
    finally:
        with suppress(OSError):  # nothing was written through it
            os.close(lock)


def is_finished(
    path: Path, settings: Settings, environment: Settings | None, *, free: frozenset[str]
) -> bool:
    """Whether there is a finished run of these settings and data; reads only.

    Args:
        path: of the run folder; it may be missing.
        settings: all settings, nested.
        environment: its "data" identifies the data; None leaves them out, while they are unknown.
        free: dotted names of settings that may change between starts.

    Raises:
        RunError: the folder holds something else, or a run with other settings or data that has
            learned something (every differing field is named), or cannot be read.
    """
    names = list_folder(path)
    if not _is_run(names):
        _refuse_foreign(path, names)
        return False
    if not _has_learned(path, names):
        return False
    _require_equal(path, *_identities(path, settings, environment, free))
    return FINAL_WEIGHTS in names


def _take_lock(path: Path) -> int:
    """Hold the folder until the process ends; the kernel lets go when it is killed.

    A POSIX record lock: unlike that of `flock` it is not inherited by the loader's processes, which
    outlive a killed run by seconds and would shut its successor out.
    """
    if fcntl is None:
        raise RunError("training locks its folder, which Windows cannot; train under WSL")
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"cannot write to {path}: {os_reason(error)}; give another --out") from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise RunError(
                f"{path} cannot be locked: {os_reason(error)}; give an --out on another disk"
            ) from error
        raise RunError(
            f"another process is training in {path}; wait for it, or give another --out"
        ) from error
    return descriptor


def _prepare(path: Path, settings: Settings, environment: Settings, free: frozenset[str]) -> None:
    """Write the settings, unless the folder has the same ones.

    A run that ended before its first checkpoint, because the loss was NaN or a network could not
    take its input, has learned nothing; with corrected settings it starts afresh.
    """
    names = list_folder(path)
    if _is_run(names):
        old, new = _identities(path, settings, environment, free)
        if _has_learned(path, names):
            _require_equal(path, old, new)
        if old == new:
            return
        with writing(path):
            shutil.rmtree(path / TENSORBOARD, ignore_errors=True)
            (path / METRICS).unlink(missing_ok=True)
            (path / IDS).unlink(missing_ok=True)
    else:
        _refuse_foreign(path, names)
    replace_text(path / _ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
    replace_text(path / _CONFIG, yaml.safe_dump(_plain(settings), sort_keys=False))


def _is_run(names: Sequence[str]) -> bool:
    """Whether a folder with these entries is one that a run has begun."""
    return _CONFIG in names and _ENVIRONMENT in names


def _has_learned(path: Path, names: Sequence[str]) -> bool:
    """Whether a run folder with these entries holds anything that training has made."""
    return FINAL_WEIGHTS in names or bool(Checkpoints(path / CHECKPOINTS, "").records())


def _refuse_foreign(path: Path, names: Sequence[str]) -> None:
    ours = {"lock", _CONFIG, _ENVIRONMENT}
    foreign = [name for name in names if name.removesuffix(".tmp") not in ours]
    if foreign:
        raise RunError(
            f"{path} is not empty and not the folder of a run ({min(foreign)} is in it); give "
            "another --out"
        )


def _identities(
    path: Path, settings: Settings, environment: Settings | None, free: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What must not change: of the run in the folder, and of this start."""
    old = _identity(_read(path / _CONFIG, yaml.safe_load), free)
    new = _identity(settings, free)
    if environment is not None:
        old |= _flatten({"data": _read(path / _ENVIRONMENT, json.loads).get("data", {})})
        new |= _flatten({"data": environment["data"]})
    return old, new


def _read(path: Path, parse: Any) -> dict[str, Any]:
    try:
        with reading(path):
            content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} is damaged ({reason}); give another --out") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged; give another --out")
    return content


def _require_equal(path: Path, old: Settings, new: Settings) -> None:
    absent, names = object(), old.keys() | new.keys()
    differing = [
        f"{name} was {_shown(old, name)}, now {_shown(new, name)}"
        for name in sorted(names)
        if old.get(name, absent) != new.get(name, absent)
        and not any(name.startswith(f"{group}.") for group in names)  # told with its group
    ]
    if differing:
        raise RunError(
            f"{path} was started with other settings: {'; '.join(differing)}; use those, or give "
            "another --out"
        )


def _shown(settings: Settings, name: str) -> Any:
    """A setting for people; a group that one start has and the other has not is only "given"."""
    is_group = any(other.startswith(f"{name}.") for other in settings)
    return "given" if is_group else settings.get(name)


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
