"""Files and folders that options name, looked up before anything slow is imported.

Only what must exist is looked up, and only its presence: what a file says is its reader's concern.
"""

import os
import stat
from collections.abc import Iterable
from itertools import chain, repeat

from fkd.cli.arguments import Argument
from fkd.errors import ConfigError
from fkd.userfiles import home_path, is_hub_address, os_reason, read_text, refuse_address

# The last part of an option's name, and what it wants.
INPUTS = {
    "config": "a YAML file of settings",
    "root": "a folder of images, or one file that holds or lists them",
    "subset": "a text file that names images, one path a line",
    "store": "the folder of a label store",
    "labels": "the folder of the label files",
    "parts": "the folder of some shards of a label store",
    "maps": "the folder of label maps",
    "checkpoint": "a file of weights, or a run folder",
    "teacher.head": "a file with a projection head",
    "class_names": "a file with one class name per line",
    "annotations": "a JSON file in the format of COCO",
    "val_annotations": "a JSON file in the format of COCO",
    "name": "a model name, or a run folder",
    "model": "the folder of a finished run, or a model name",
}
OUTPUTS = ("out",)
"""Files and folders that a verb writes; they need not exist."""

_FOLDERS = frozenset({"store", "labels", "maps", "parts"})
_FILES = frozenset(
    {"config", "subset", "class_names", "teacher.head", "annotations", "val_annotations"}
)
_NAMES = frozenset({"name", "model"})
_LIBRARIES = ("torchvision/", "timm/")  # before the name of a model


def input_of(option: str) -> str | None:
    """The key of `INPUTS` that an option belongs to; None for an option that names no input."""
    whole = option.lstrip("-")
    return next((key for key in (whole, whole.rpartition(".")[2]) if key in INPUTS), None)


def require_inputs(
    arguments: Iterable[Argument], positional: tuple[str, ...], *, many: bool = False
) -> None:
    """Refuse paths that are not there, or are a file for a folder or the other way round.

    Args:
        arguments: of the command line.
        positional: names of the positional arguments, in order.
        many: whether further ones have the last of these names, too.

    Raises:
        ConfigError: names option, path and reason; also where a path is an address.
    """
    given = list(arguments)
    downloads = any(a.option in ("--images.download", "--images.format") for a in given)
    names = chain(positional, repeat(positional[-1] if many else ""))
    for argument in given:
        option = argument.option.lstrip("-") or next(names)
        kind, value = input_of(option), argument.value
        if value == "" and (kind is not None or option in OUTPUTS):
            raise ConfigError(f"{option} is empty; give {INPUTS.get(kind or '', 'a path')}")
        if value is not None and option.rpartition(".")[2] in OUTPUTS:
            refuse_address(option, value, is_written=True)
        if kind is None or value is None or _is_settings(value, kind):
            continue
        if kind == "store" and is_hub_address(value):
            continue
        if kind in _NAMES and not _is_path(value):
            continue
        refuse_address(option, value, is_written=False)
        if not (kind == "root" and downloads):
            _require(option, value, kind)


def _is_settings(value: str, kind: str) -> bool:
    """Whether a value is null, a group in YAML, or a file of settings (`train --labels`)."""
    return (
        value == "null"
        or value.startswith(("{", "["))
        or (kind in ("labels", "maps") and value.endswith((".yaml", ".yml", ".json")))
    )


def _is_path(value: str) -> bool:
    """Whether a value that may be the name of a model is a folder."""
    is_name = value.startswith(_LIBRARIES) or ":" in value  # hf-hub:owner/name
    return value.startswith(("~", ".")) or ("/" in value and not is_name)


def _require(option: str, value: str, kind: str) -> None:
    try:
        mode = os.stat(home_path(value)).st_mode
    except FileNotFoundError:
        raise ConfigError(f"{option}: {value} does not exist; give {INPUTS[kind]}") from None
    except OSError as error:
        raise ConfigError(
            f"{option}: {value} cannot be opened: {os_reason(error)}; give {INPUTS[kind]}"
        ) from None
    found = _what(mode)
    refused = {"a device"} | ({"a folder"} if kind in _FILES else set())
    if found in refused | ({"a file"} if kind in _FOLDERS else set()):
        raise ConfigError(f"{option}: {value} is {found}; give {INPUTS[kind]}")
    if kind in _NAMES and found == "a file":
        group = option.rpartition(".")[0]
        checkpoint = f"--{group}.checkpoint" if group else "--checkpoint"
        raise ConfigError(
            f"{option}: {value} is a file; give {INPUTS[kind]}; weights go into {checkpoint}, "
            "beside the name of their network"
        )
    # What comes through a pipe can be read only once, by the parser.
    if kind == "config" and stat.S_ISREG(mode) and not read_text(option, value).strip():
        raise ConfigError(f"{option}: {value} is empty; give {INPUTS[kind]}")


def _what(mode: int) -> str:
    """What a path leads to; a pipe reads like a file, a device may have no end."""
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a folder" if stat.S_ISDIR(mode) else "a file"
