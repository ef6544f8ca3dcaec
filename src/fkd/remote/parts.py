"""Files on their way in: a part that grows, is compared with its checksum, and gets its name.

    FOLDER/.pull/<sha256>   a part; what it is to become is its name, so it is never continued with
                            other bytes than those it began with
    FOLDER/NAME             complete: it was compared, flushed to the disk and renamed

An error of the disk is told from one of the network: only the former is raised here.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fkd.engine.durable import sync_folder
from fkd.errors import RemoteError
from fkd.remote.contents import Item
from fkd.userfiles import os_reason

PARTS = ".pull"
_LOCK = "lock"
_SPARE = 1 << 20  # bytes
_DIGEST = re.compile("[0-9a-f]{64}")


class Parts:
    """The parts below a folder; one process at a time.

    Args:
        folder: that is filled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = folder / PARTS

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder; what is incomplete at the end stays for the next time.

        Raises:
            RemoteError: another process is fetching into it, or the disk refuses.
        """
        with writing(self._parts):
            self._parts.mkdir(parents=True, exist_ok=True)
            lock = open(self._parts / _LOCK, "wb")  # noqa: SIM115 - held until the end
        with lock:
            _take(lock, self._folder)
            yield
            if not any(_DIGEST.fullmatch(name) for name in os.listdir(self._parts)):
                shutil.rmtree(self._parts, ignore_errors=True)

    def path(self, item: Item) -> Path:
        """Of a part."""
        return self._parts / item.sha256

    def length(self, item: Item) -> int:
        """Bytes that a part has; one that is too long begins anew."""
        path = self.path(item)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return 0
        if size > item.num_bytes:
            self.drop(item)
            return 0
        return size

    def drop(self, item: Item) -> None:
        """Forget a part."""
        with writing(self.path(item)):
            self.path(item).unlink(missing_ok=True)

    def publish(self, item: Item) -> bool:
        """Give a complete part its name, if its bytes are those of its checksum; else forget it.

        Raises:
            RemoteError: the disk refuses, or a link is in the way.
        """
        path, target = self.path(item), self._folder / item.name
        with writing(target):
            with open(path, "ab") as file:
                os.fsync(file.fileno())
            if sha256_of(path) != item.sha256:
                path.unlink()
                return False
            self._make_parents(item.name)
            os.replace(path, target)
            sync_folder(target.parent)
        return True

    def _make_parents(self, name: str) -> None:
        """The folders that a name is in, none of which may be a link."""
        place = self._folder
        for part in name.split("/")[:-1]:
            place = place / part
            if place.is_symlink():
                raise RemoteError(f"{place} is a link; nothing is written through it, remove it")
            place.mkdir(exist_ok=True)


def _take(lock: IO[bytes], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RemoteError(
            f"another process is fetching into {folder}; wait for it to end, or stop it"
        ) from None
    except OSError:  # a file system without locks
        return


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_there(folder: Path, item: Item) -> bool:
    """Whether a folder has this file with these bytes.

    Raises:
        RemoteError: it cannot be read.
    """
    path = folder / item.name
    try:
        return path.stat().st_size == item.num_bytes and sha256_of(path) == item.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise RemoteError(f"{path} cannot be read: {os_reason(error)}") from error


def is_within(folder: Path, other: Path) -> bool:
    """Whether a folder is another one, or below it."""
    return folder.resolve().is_relative_to(other.resolve())


def require_space(folder: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        RemoteError: says what is free and what is needed.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes + _SPARE > free:
        raise RemoteError(
            f"{folder}: {num_bytes:,} bytes are to be fetched and the disk has {free:,} free; free "
            "some space, give a folder on another disk, or fetch some --shards only"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around everything that writes.

    Raises:
        RemoteError: the disk is full or refuses.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some space" if full else "correct that, or give another folder"
        raise RemoteError(
            f"cannot write {path}: {os_reason(error)}; {way_out}, then run the same command again: "
            "it resumes"
        ) from error
