"""Every system call of a label store; no other module of `fkd.store` opens a file.

Reading never writes, never follows a symbolic link below the store's folder, and opens plain files
only. Writing goes through `publish`: temporary file, fsync, link to the final name without ever
replacing anything, fsync of the folder. A file is therefore complete or not there, after a kill and
(where fsync is honored) after a power cut. Operating system errors become `StoreError`s here.

Names are relative to the store's folder: "manifest.json" or "shards/00000.safetensors".
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from fkd.errors import DamagedStore, FormatError, StoreError, StoreFull

P = ParamSpec("P")
T = TypeVar("T")

TEMPORARY = ".tmp."
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}
# Windows lacks some of these flags; the package can be imported there all the same.
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# O_NONBLOCK: opening a FIFO must not wait for a process that writes into it.
_READ = os.O_RDONLY | _PLAIN | getattr(os, "O_NONBLOCK", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do one system call; tests replace this function to let any call fail, die or be recorded."""
    return function(*args, **kwargs)


def repair_hint(root: Path) -> str:
    """The way out of a damaged store, as part of a sentence."""
    return f"run `fkd verify {root} --repair`, then the command that made it again"


# Reading


def read(root: Path, name: str, limit: int) -> bytes:
    """The bytes of a small file.

    Raises:
        DamagedStore: it is missing.
        FormatError: it is longer than `limit` bytes, or not a plain file.
        StoreError: it cannot be read.
    """
    with _reading(root, name), _opened(root, name) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise FormatError(f"{root / name} has {size} bytes; a store allows {limit} there")
        return _read_all(descriptor)


def map_readonly(root: Path, name: str, num_bytes: int) -> memoryview:
    """A file of a known length, mapped read-only; it is not kept open.

    Python's own `mmap` keeps a descriptor for each map (until 3.13), of which a process may have
    1,024; a map of torch keeps none. It is given the open file, not its path, so that the file
    that was checked is the one that is mapped.

    Raises:
        DamagedStore: it is missing or has another length.
        FormatError: it is not a plain file.
        StoreError: it cannot be read or mapped.
    """
    with _reading(root, name), _opened(root, name) as descriptor:
        size = os.fstat(descriptor).st_size
        if size != num_bytes:
            raise DamagedStore(
                f"{root / name} has {size} bytes where {num_bytes} were written; "
                f"{repair_hint(root)}"
            )
        try:
            path = f"/dev/fd/{descriptor}"
            mapped = _call(torch.from_file, path, shared=False, size=size, dtype=torch.uint8)
        except RuntimeError as error:
            raise StoreError(
                f"cannot map {root / name}: {error}; if the system allows no more maps, make "
                "larger shards (--images_per_shard)"
            ) from error
    return mapped.numpy().data.toreadonly()


def exists(root: Path, name: str) -> bool:
    """Whether the store has anything of that name, be it a dangling link."""
    folder, _, leaf = name.rpartition("/")
    with _reading(root, name):
        try:
            with _folder(root, folder) as directory:
                _call(os.stat, leaf, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True


def names(root: Path, folder: str = "") -> list[str]:
    """Sorted names in a folder of the store; none where the folder is missing."""
    with _reading(root, folder):
        try:
            with _folder(root, folder) as descriptor:
                return sorted(_call(os.listdir, descriptor))
        except FileNotFoundError:
            return []


@contextmanager
def _opened(root: Path, name: str) -> Iterator[int]:
    folder, _, leaf = name.rpartition("/")
    with _folder(root, folder) as directory:
        descriptor = _call(os.open, leaf, _READ, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FormatError(f"{root / name} is not a plain file; a store holds plain files only")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _folder(root: Path, folder: str) -> Iterator[int]:
    """A folder of the store by descriptor; the store's own path may be a link, `folder` may not."""
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
    flags |= _PLAIN if folder else getattr(os, "O_CLOEXEC", 0)
    descriptor = _call(os.open, root / folder, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := _call(os.read, descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def _reading(root: Path, name: str) -> Iterator[None]:
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


# Writing


def publish(root: Path, name: str, data: bytes) -> None:
    """Make `data` appear under `name`, durably and all at once; the same bytes there are fine.

    Raises:
        DamagedStore: other bytes are there already.
        StoreFull: no space, or a quota or size limit is reached.
        StoreError: the disk refuses otherwise.
    """
    folder, _, leaf = name.rpartition("/")
    temporary = f"{TEMPORARY}{leaf}.{os.getpid()}"
    with _writing(root / name, len(data)), _folder(root, folder) as directory:
        _write_new(directory, temporary, data)
        try:
            _call(os.link, temporary, leaf, src_dir_fd=directory, dst_dir_fd=directory)
        except FileExistsError:
            _require_same(root, name, data)
        finally:
            _call(os.unlink, temporary, dir_fd=directory)
        _call(os.fsync, directory)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably; an existing one is fine.

    Raises:
        StoreError: it cannot be created.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    with _writing(path, 0):
        with suppress(FileExistsError):
            _call(os.mkdir, path, 0o777)
        with _folder(path.parent, "") as directory:
            _call(os.fsync, directory)


def sync_folder(root: Path, folder: str = "") -> None:
    """Make the names in a folder of the store durable."""
    with _writing(root / folder, 0), _folder(root, folder) as directory:
        _call(os.fsync, directory)


def remove(root: Path, name: str) -> None:
    """Delete one file of the store; only for our own unfinished work, under the lock."""
    folder, _, leaf = name.rpartition("/")
    with _writing(root / name, 0), _folder(root, folder) as directory:
        _call(os.unlink, leaf, dir_fd=directory)


def move(root: Path, name: str, target: str) -> str:
    """Move a file into the folder `target` of the store and return its new name.

    A name that is taken there gets a number, so that nothing is overwritten; under the lock only.
    """
    folder, _, leaf = name.rpartition("/")
    taken = set(names(root, target))
    new = next(n for i in range(len(taken) + 1) if (n := f"{leaf}.{i}" if i else leaf) not in taken)
    with _writing(root / name, 0), _folder(root, folder) as old, _folder(root, target) as other:
        _call(os.rename, leaf, new, src_dir_fd=old, dst_dir_fd=other)
        _call(os.fsync, other)
        _call(os.fsync, old)
    return f"{target}/{new}"


def open_for_lock(root: Path, name: str, create: bool) -> int:
    """A descriptor to lock; the file's bytes are left alone. The caller closes it.

    Raises:
        FileNotFoundError: it is not there, and `create` is false.
        StoreError: it cannot be opened for writing.
    """
    flags = os.O_RDWR | _PLAIN | (os.O_CREAT if create else 0)
    try:
        return _call(os.open, root / name, flags, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _write_error(error, root / name, 0) from error


def _write_new(directory: int, leaf: str, data: bytes) -> None:
    """A new file with these bytes, fsynced; on any failure it is removed again.

    A failed fsync is final: the kernel may have dropped the dirty pages, a second one would lie.
    """
    descriptor = _call(os.open, leaf, _CREATE, 0o666, dir_fd=directory)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[_call(os.write, descriptor, rest) :]
        _call(os.fsync, descriptor)
    except BaseException:
        with suppress(OSError):
            _call(os.unlink, leaf, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def _require_same(root: Path, name: str, data: bytes) -> None:
    """Accept what another process of this run has published meanwhile, if it is the same."""
    with _reading(root, name), _opened(root, name) as descriptor:
        same = os.fstat(descriptor).st_size == len(data) and _read_all(descriptor) == data
    if not same:
        raise DamagedStore(
            f"{root / name} exists with other bytes: two processes computed different content; "
            f"{repair_hint(root)}"
        )
    with _opened(root, name) as descriptor:
        _call(os.fsync, descriptor)


@contextmanager
def _writing(path: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _write_error(error, path, num_bytes) from error


def _write_error(error: OSError, path: Path, num_bytes: int) -> StoreError:
    if error.errno in _NO_SPACE:
        return StoreFull(
            f"no space for {path} ({num_bytes:,} bytes): {error.strerror}; free some space and run "
            "the same command again, it resumes after the last complete shard"
        )
    if error.errno in _NO_HARD_LINKS:
        return StoreError(
            f"cannot write {path}: {error.strerror}; if its file system has no hard links, label "
            "onto a local disk and copy the finished store"
        )
    return StoreError(f"cannot write {path}: {error.strerror}")
