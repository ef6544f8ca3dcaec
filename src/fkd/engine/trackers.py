"""The metrics of a run for services: Weights & Biases, MLflow and others that accelerate knows.

What a service calls the run is kept in RUN/trackers.json, so that a run that is resumed continues
there, too. A service that fails while the run trains is left out from then on, with a warning.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fkd.engine.durable import reading, replace_text
from fkd.errors import ConfigError

TENSORBOARD = "tensorboard"
PACKAGES = {
    TENSORBOARD: "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet-ml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
}
"""Trackers, and the packages that bring them."""

PROJECT = "fkd"
"""What services call the project, unless their own environment variable says otherwise."""

IDS = "trackers.json"


def parse_trackers(text: str) -> tuple[str, ...]:
    """The trackers that a setting names, such as "tensorboard,wandb"; none for "none".

    Raises:
        ConfigError: one of them is unknown, or named twice.

    Example:
        >>> parse_trackers("wandb, mlflow"), parse_trackers("none")
        (('wandb', 'mlflow'), ())
    """
    names = tuple(name.strip() for name in text.split(","))
    if names == ("none",):
        return ()
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(
                f"trackers: {name!r} is none of {', '.join(PACKAGES)}; or give none alone"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"trackers: {text} names one of them twice")
    return names


def require_trackers(text: str) -> None:
    """Refuse trackers whose packages are missing, before anything is done.

    Raises:
        ConfigError: names the package to install.
    """
    for name in parse_trackers(text):
        if find_spec(name) is None:
            raise ConfigError(
                f"trackers: {name} is not installed; pip install {PACKAGES[name]}, or leave it out"
            )


class Trackers:
    """The trackers of a run besides TensorBoard, which has its files in the run folder.

    Args:
        names: of the trackers.
        folder: of the run; its name is the run's name.
        settings: of the run, nested.
        warn: told of a tracker that fails later on.

    Raises:
        ConfigError: one of them cannot start.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        settings: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self._warn = warn
        self._trackers = {name: _start(name, folder, settings) for name in names}

    def write(self, metrics: Mapping[str, float | int | None]) -> None:
        """The numbers of one line of metrics.jsonl."""
        step = int(metrics["step"] or 0)
        values = {name: v for name, v in metrics.items() if name != "step" and v is not None}
        self._tell(lambda tracker: tracker.log(values, step=step))

    def close(self) -> None:
        """Everything has been written."""
        self._tell(lambda tracker: tracker.finish())

    def _tell(self, what: Callable[[Any], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # a service may raise anything, and the run is worth more
                del self._trackers[name]
                self._warn(
                    f"{name} failed ({type(error).__name__}: {error}) and is told no more of this "
                    "run; metrics.jsonl has all of it"
                )


def _start(name: str, folder: Path, settings: Mapping[str, Any]) -> Any:
    """A tracker of accelerate that has begun the run, or continues it."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    ids = _read_ids(folder / IDS)
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = [str(folder)] if kind.requires_logging_directory else []
    try:
        tracker = kind(_project(name), *place, **_options(name, folder, ids.get(name)))
        getattr(tracker, "start", lambda: None)()  # older ones start by themselves
        tracker.store_init_configuration(_flat(settings))
        known_as = _id_of(name, tracker)
    except Exception as error:
        raise ConfigError(
            f"trackers: {name} cannot start ({type(error).__name__}: {error}); set it up, or leave "
            "it out"
        ) from error
    if known_as is not None and ids.get(name) != known_as:
        replace_text(folder / IDS, json.dumps(ids | {name: known_as}, sort_keys=True) + "\n")
    return tracker


def _project(name: str) -> str:
    return os.environ.get("WANDB_PROJECT", PROJECT) if name == "wandb" else PROJECT


def _options(name: str, folder: Path, known_as: str | None) -> dict[str, Any]:
    """What a service is told besides the project; `known_as` is its name of an earlier start."""
    label = folder.resolve().name
    if name == "wandb":
        new = secrets.token_hex(8)
        return {"name": label, "id": known_as or new, "resume": "allow", "dir": str(folder)}
    if name == "mlflow":
        return {"run_name": label, "run_id": known_as, "logging_dir": None}
    return {}


def _id_of(name: str, tracker: Any) -> str | None:
    """What the service calls the run; None where it cannot be continued by that."""
    if name == "wandb":
        return str(tracker.init_kwargs["id"])
    return str(tracker.active_run.info.run_id) if name == "mlflow" else None


def _read_ids(path: Path) -> dict[str, str]:
    text = "{}"
    with reading(path), suppress(FileNotFoundError):
        text = path.read_text(encoding="utf-8")
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names, with plain values; lists as text."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            plain = value is None or isinstance(value, bool | int | float | str)
            flat[prefix + name] = value if plain else str(value)
    return flat
