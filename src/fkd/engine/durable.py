"""Writing files of a run folder: a kill or a power cut leaves the old file or the new one.

What the system refuses, in a run folder, is a RunError with path and reason.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fkd.errors import RunError
from fkd.userfiles import os_reason

_TEMPORARY = ".tmp"
_RESUMES = "run the same command again: it resumes from the last checkpoint"


class _HashingFile:
    """A file open for writing that remembers the SHA-256 and the length of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error  # torch.save turns it into a RuntimeError of its own
            raise
        self.num_bytes += written
        return written

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def writing(path: Path, then: str = _RESUMES) -> Iterator[None]:
    """Around everything that writes `path`; `then` is what to do once the disk is repaired.

    Raises:
        RunError: the disk is full or refuses.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {os_reason(error)}; free some space or repair the disk, then "
            f"{then}"
        ) from error


@contextmanager
def reading(path: Path, way_out: str = "give another --out") -> Iterator[None]:
    """Around everything that reads `path`.

    Raises:
        RunError: it is there, but cannot be read; ends with `way_out`.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {os_reason(error)}; make it readable, or {way_out}"
        ) from error


def list_folder(path: Path) -> list[str]:
    """Sorted names of the entries of a folder; none where it does not exist.

    Raises:
        RunError: it cannot be read, or is no folder.
    """
    with reading(path), suppress(FileNotFoundError):
        return sorted(os.listdir(path))
    return []


def replace_file(path: Path, write: Callable[[Any], Any], then: str = _RESUMES) -> tuple[str, int]:
    """Make what `write(file)` writes the content of `path`, durably and all at once.

    Returns its SHA-256 (hexadecimal) and its length.

    Args:
        path: of the file.
        write: called with the open file.
        then: as for `writing`.

    Raises:
        RunError: the disk is full or refuses; what was there before is untouched.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    with writing(path, then):
        try:
            with open(temporary, "wb") as file:
                hashing = _HashingFile(file)
                _write(hashing, write)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return hashing.sha256.hexdigest(), hashing.num_bytes


def _write(hashing: _HashingFile, write: Callable[[Any], Any]) -> None:
    try:
        write(hashing)
    except RuntimeError:
        if hashing.error is None:
            raise
        raise hashing.error from None


def replace_text(path: Path, text: str) -> None:
    """Make `text` the content of `path`, durably and all at once."""
    replace_file(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk; where folders cannot be opened, do nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
