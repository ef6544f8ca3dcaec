"""Every system call of a label store; no other module of `fkd.store` opens a file.

Reading never writes and opens plain files only. A file may be a link to a plain file, as in the
cache of a hub; a folder below the store's own may not. Writing is in `fkd.store.durable`, and goes
through `call` too. Operating system errors become `StoreError`s in both modules.

Names are relative to the store's folder: "manifest.json" or "shards/00000.safetensors".
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fkd.errors import DamagedStore, FormatError, StoreError
from fkd.lazy import torch
from fkd.userfiles import home_path

P = ParamSpec("P")
T = TypeVar("T")

TEMPORARY = ".tmp."
_MAX_MAPS = 128
_maps_without_torch = itertools.count()
# Windows lacks most of these flags, and has the last one, without which it changes line ends.
CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
PLAIN = getattr(os, "O_NOFOLLOW", 0) | CLOSED
# O_NONBLOCK: opening a FIFO must not wait for a process that writes into it.
_READ = os.O_RDONLY | CLOSED | getattr(os, "O_NONBLOCK", 0)


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do one system call; tests replace this function to let any call fail, die or be recorded."""
    return function(*args, **kwargs)


def repair_hint(root: Path) -> str:
    """The way out of a damaged store, as part of a sentence."""
    return f"run `fkd verify {root} --repair`, then the command that made it again"


def absolute(path: str | os.PathLike[str]) -> Path:
    """The folder that a user names.

    Raises:
        FormatError: there can be no such folder.
    """
    try:
        return home_path(path).absolute()
    except (OSError, RuntimeError, ValueError) as error:  # no home folder, no working folder
        raise FormatError(f"{os.fspath(path)!a} is no path of a folder: {error}") from error


def is_folder(path: Path) -> bool:
    """Whether there is a folder; False for everything else, and where nothing is.

    Raises:
        StoreError: the system does not say.
    """
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_something(path: Path) -> bool:
    """Whether there is a file or folder.

    Raises:
        StoreError: the system does not say.
    """
    return _mode(path) is not None


def require_folder(path: Path) -> None:
    """Make sure that a user has named a folder.

    Raises:
        FormatError: it is none, or is not there.
        StoreError: the system does not say.
    """
    mode = _mode(path)
    if mode is None:
        raise FormatError(
            f"{path} does not exist; give the folder of a label store, or hf://datasets/ORG/NAME"
        )
    if not stat.S_ISDIR(mode):
        raise FormatError(f"{path} is not a folder; give the folder of a label store")


def _mode(path: Path) -> int | None:
    """What stat says of the kind of a file; None where there is none."""
    try:
        return call(os.stat, path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(f"cannot look at {path}: {reason}") from error


def read(root: Path, name: str, limit: int) -> bytes:
    """The bytes of a small file.

    Raises:
        DamagedStore: it is missing.
        FormatError: it is longer than `limit` bytes, or not a plain file.
        StoreError: it cannot be read.
    """
    with reading(root, name), opened(root, name) as descriptor:
        size = call(os.fstat, descriptor).st_size
        if size > limit:
            raise FormatError(f"{root / name} has {size} bytes; a store allows {limit} there")
        return read_all(descriptor)


def map_readonly(root: Path, name: str, num_bytes: int) -> memoryview:
    """A file of a known length, mapped read-only; it is not kept open.

    Python's own `mmap` keeps a descriptor for each map (until 3.13), of which a process may have
    1,024; a map of torch keeps none. Only where torch is not imported, and for a few maps, it is
    Python's: looking at a store should not take the time to import torch. Either is given the open
    file, not its path, so that the file that was checked is the one that is mapped (but for torch
    on Windows).

    Raises:
        DamagedStore: it is missing or has another length.
        FormatError: it is not a plain file.
        StoreError: it cannot be read or mapped.
    """
    with reading(root, name), opened(root, name) as descriptor:
        size = call(os.fstat, descriptor).st_size
        _require_length(root, name, size, num_bytes)
        if "torch" not in sys.modules and size and next(_maps_without_torch) < _MAX_MAPS:
            return memoryview(call(mmap.mmap, descriptor, size, access=mmap.ACCESS_READ))
        by_descriptor = f"/dev/fd/{descriptor}"
        path = by_descriptor if os.path.exists(by_descriptor) else str(root / name)
        try:
            mapped = call(torch.from_file, path, shared=False, size=size, dtype=torch.uint8)
        except RuntimeError as error:
            raise StoreError(
                f"cannot map {root / name}: {error}; if the system allows no more maps, make "
                "larger shards (--images_per_shard)"
            ) from error
    return mapped.numpy().data.toreadonly()


def require_length(root: Path, name: str, num_bytes: int) -> None:
    """Make sure that a file is there and has this length.

    Raises:
        DamagedStore: it is missing or has another length.
        FormatError: it is not a plain file.
        StoreError: the system does not say.
    """
    with reading(root, name), open_folder(root, name.rpartition("/")[0]) as folder:
        _require_length(root, name, _plain_file(folder, root, name).st_size, num_bytes)


def _require_length(root: Path, name: str, size: int, num_bytes: int) -> None:
    if size != num_bytes:
        raise DamagedStore(
            f"{root / name} has {size} bytes where {num_bytes} were written; {repair_hint(root)}"
        )


def exists(root: Path, name: str) -> bool:
    """Whether the store has anything of that name, be it a dangling link."""
    folder, _, leaf = name.rpartition("/")
    with reading(root, name):
        try:
            with open_folder(root, folder) as directory:
                directory.call(os.stat, leaf, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True


def names(root: Path, folder: str = "") -> list[str]:
    """Sorted names in a folder of the store; none where the folder is missing."""
    with reading(root, folder):
        try:
            with open_folder(root, folder) as directory:
                return sorted(directory.names())
        except FileNotFoundError:
            return []


@dataclass(frozen=True)
class Folder:
    """A folder of the store: open, or by its path where the system opens no folders (Windows)."""

    path: Path
    descriptor: int | None

    def call(self, function: Callable[..., T], leaf: str, *args: Any, **options: Any) -> T:
        """A system call on a file in it."""
        if self.descriptor is None:
            return call(function, self.path / leaf, *args, **options)
        return call(function, leaf, *args, dir_fd=self.descriptor, **options)

    def names(self) -> list[str]:
        """What it holds."""
        if self.descriptor is None:
            return call(os.listdir, str(self.path))
        return call(os.listdir, self.descriptor)

    def sync(self) -> None:
        """Make its names durable."""
        if self.descriptor is not None:
            call(os.fsync, self.descriptor)


@contextmanager
def opened(root: Path, name: str) -> Iterator[int]:
    """A plain file by descriptor, for reading; inside `reading`."""
    folder, _, leaf = name.rpartition("/")
    with open_folder(root, folder) as directory:
        _plain_file(directory, root, name)  # opening a device may do something
        descriptor = directory.call(os.open, leaf, _READ)
    try:
        _require_plain(call(os.fstat, descriptor), root, name)
        yield descriptor
    finally:
        call(os.close, descriptor)


def _plain_file(directory: Folder, root: Path, name: str) -> os.stat_result:
    """What stat says of a plain file, or of one that a link leads to."""
    leaf = name.rpartition("/")[2]
    try:
        result = directory.call(os.stat, leaf)
    except FileNotFoundError:
        directory.call(os.stat, leaf, follow_symlinks=False)
        raise FormatError(
            f"{root / name} is a link to nowhere; a store holds plain files only, get it again"
        ) from None
    _require_plain(result, root, name)
    return result


def _require_plain(result: os.stat_result, root: Path, name: str) -> None:
    if not stat.S_ISREG(result.st_mode):
        raise FormatError(f"{root / name} is not a plain file; a store holds plain files only")


@contextmanager
def open_folder(root: Path, folder: str) -> Iterator[Folder]:
    """A folder of the store; the store's own path may be a link, `folder` may not."""
    path = root / folder
    if os.open not in os.supports_dir_fd:
        if folder and stat.S_ISLNK(call(os.stat, path, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        yield Folder(path, None)
        return
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
    descriptor = call(os.open, path, flags | (PLAIN if folder else CLOSED))
    try:
        yield Folder(path, descriptor)
    finally:
        call(os.close, descriptor)


def read_all(descriptor: int) -> bytes:
    """All bytes of an open file from where it is."""
    parts = []
    while part := call(os.read, descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def reading(root: Path, name: str) -> Iterator[None]:
    """Turn what the system refuses into errors that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedStore(f"{root / name} is missing; {repair_hint(root)}") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise FormatError(
                f"{root / name} is a link or a device; a store holds plain files only"
            ) from error
        raise StoreError(f"cannot read {root / name}: {error.strerror}") from error
