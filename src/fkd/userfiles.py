"""Files and folders that a user names: where they are, what they say, why they cannot be read."""

import os
import re
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError

# Two letters at least, since C:/ is a disk; `Path("s3://a")` has one slash after the colon.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def home_path(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~name` replaced by that home folder.

    A home folder that is not known stays as it is written, and then does not exist.

    Args:
        path: as a user writes it; a configuration file or a notebook has no shell that does this.
    """
    return Path(os.path.expanduser(path))


def is_hub_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address of the Hugging Face hub, such as hf://datasets/org/name.

    A `Path` of one has a single slash after the colon.
    """
    return os.fspath(path).startswith("hf:/")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of something elsewhere: s3://bucket/labels, https://host/a."""
    return _ADDRESS.match(os.fspath(path)) is not None


def refuse_address(name: str, path: str | os.PathLike[str], *, is_written: bool) -> None:
    """Refuse an address where a folder or a file here is needed.

    As a path it would be a folder called "s3:" in the current one.

    Args:
        name: the setting, as the user writes it.
        path: as the user writes it.
        is_written: whether it is to be written, and not read.

    Raises:
        ConfigError: it is an address.
    """
    if not is_address(path):
        return
    way_out = (
        "write into a folder here, and send it by `fkd push`"
        if is_written
        else "fetch it first (`fkd pull` does so for stores and runs)"
    )
    raise ConfigError(f"{name}: {os.fspath(path)} is an address and no path here; {way_out}")


def settle_paths(config: Any, *names: str) -> None:
    """Make fields of a frozen dataclass text, with home folders in the place of `~`.

    Args:
        config: called from its `__post_init__`.
        names: fields that hold a path as text or as a `Path`; None stays None.

    Raises:
        ConfigError: a field holds something else, or an address other than one of the hub.
    """
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if not isinstance(value, str | os.PathLike):
            raise ConfigError(f"{name}: a path is text, got {value!r}")
        if name == "out" or not is_hub_address(value):
            refuse_address(name, value, is_written=name == "out")
        object.__setattr__(config, name, os.path.expanduser(os.fspath(value)))


def os_reason(error: OSError) -> str:
    """Why the system refused, as part of a sentence: "permission denied", "file name too long"."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def read_text(name: str, path: str | os.PathLike[str]) -> str:
    """The text of a small UTF-8 file, without the byte order mark that some editors put first.

    Args:
        name: the setting that names the file, as the user writes it.
        path: of the file.

    Raises:
        ConfigError: the file cannot be read or is not UTF-8; names setting, file and reason.
    """
    try:
        return home_path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be read: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: {path} is not a text file in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error
