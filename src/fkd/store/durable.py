"""Writing the files of a store so that a kill or a power cut loses nothing that was acknowledged.

    publish     temporary file, fsync, link to the final name without ever replacing anything,
                fsync of the folder

A file is therefore complete or not there, after a kill and (where fsync is honored) after a power
cut. Operating system errors become `StoreError`s here; all system calls go through `files.call`.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fkd.errors import DamagedStore, StoreError, StoreFull
from fkd.store import files

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.PLAIN


def publish(root: Path, name: str, data: bytes) -> None:
    """Make `data` appear under `name`, durably and all at once; the same bytes there are fine.

    Raises:
        DamagedStore: other bytes are there already.
        StoreFull: no space, or a quota or size limit is reached.
        StoreError: the disk refuses otherwise.
    """
    folder, _, leaf = name.rpartition("/")
    temporary = f"{files.TEMPORARY}{leaf}.{os.getpid()}"
    with _writing(root / name, len(data)), files.open_folder(root, folder) as directory:
        _write_new(directory, temporary, data)
        try:
            _link(directory, temporary, leaf)
        except FileExistsError:
            _require_same(root, name, data)
        finally:
            directory.call(os.unlink, temporary)
        directory.sync()


def _link(directory: files.Folder, old: str, new: str) -> None:
    """Give a file another name, which must be free."""
    if directory.descriptor is None:
        files.call(os.link, directory.path / old, directory.path / new)
    else:
        both = directory.descriptor
        files.call(os.link, old, new, src_dir_fd=both, dst_dir_fd=both)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably; an existing one is fine.

    Raises:
        StoreError: it cannot be created.
    """
    if files.is_folder(path):
        return
    make_folder(path.parent)
    with _writing(path, 0):
        try:
            files.call(os.mkdir, path, 0o777)
        except FileExistsError as error:  # by another process, or this is a link to nowhere
            if not files.is_folder(path):
                raise OSError(error.errno, "a link to nowhere is in the way") from error
        with files.open_folder(path.parent, "") as directory:
            directory.sync()


def sync_folder(root: Path, folder: str = "") -> None:
    """Make the names in a folder of the store durable."""
    with _writing(root / folder, 0), files.open_folder(root, folder) as directory:
        directory.sync()


def remove(root: Path, name: str) -> None:
    """Delete one file of the store; only for our own unfinished work, under the lock."""
    folder, _, leaf = name.rpartition("/")
    with _writing(root / name, 0), files.open_folder(root, folder) as directory:
        directory.call(os.unlink, leaf)


def move(root: Path, name: str, target: str) -> str:
    """Move a file into the folder `target` of the store and return its new name.

    A name that is taken there gets a number, so that nothing is overwritten; under the lock only.
    """
    folder, _, leaf = name.rpartition("/")
    taken = set(files.names(root, target))
    new = next(n for i in range(len(taken) + 1) if (n := f"{leaf}.{i}" if i else leaf) not in taken)
    with (
        _writing(root / name, 0),
        files.open_folder(root, folder) as old,
        files.open_folder(root, target) as other,
    ):
        if old.descriptor is None or other.descriptor is None:
            files.call(os.rename, old.path / leaf, other.path / new)
        else:
            files.call(os.rename, leaf, new, src_dir_fd=old.descriptor, dst_dir_fd=other.descriptor)
        other.sync()
        old.sync()
    return f"{target}/{new}"


def open_for_lock(root: Path, name: str, create: bool) -> int:
    """A descriptor to lock; the file's bytes are left alone. The caller closes it.

    Raises:
        FileNotFoundError: it is not there, and `create` is false.
        StoreError: it cannot be opened for writing.
    """
    flags = os.O_RDWR | files.PLAIN | (os.O_CREAT if create else 0)
    try:
        return files.call(os.open, root / name, flags, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _write_error(error, root / name, 0) from error


def lock(descriptor: int, path: Path, *, shared: bool, wait: bool = False) -> bool:
    """Take a lock on an open file; False where another process has it and we do not `wait`.

    Raises:
        StoreError: the system has no locks there.
    """
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        files.call(fcntl.flock, descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"cannot lock {path}: {error.strerror}; label onto a local disk and copy the "
            "finished store"
        ) from error
    return True


def close(descriptor: int, path: Path) -> None:
    """Close what `open_for_lock` has opened.

    Raises:
        StoreError: the system reports an error; it is closed all the same.
    """
    with _writing(path, 0):
        files.call(os.close, descriptor)


def _write_new(directory: files.Folder, leaf: str, data: bytes) -> None:
    """A new file with these bytes, fsynced; on any failure it is removed again.

    A failed fsync is final: the kernel may have dropped the dirty pages, a second one would lie.
    """
    descriptor = directory.call(os.open, leaf, _CREATE, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[files.call(os.write, descriptor, rest) :]
        files.call(os.fsync, descriptor)
    except BaseException:
        with suppress(OSError):
            directory.call(os.unlink, leaf)
        raise
    finally:
        files.call(os.close, descriptor)


def _require_same(root: Path, name: str, data: bytes) -> None:
    """Accept what another process of this run has published meanwhile, if it is the same."""
    with files.reading(root, name), files.opened(root, name) as descriptor:
        same = (
            files.call(os.fstat, descriptor).st_size == len(data)
            and files.read_all(descriptor) == data
        )
    if not same:
        raise DamagedStore(
            f"{root / name} exists with other bytes: two processes computed different content; "
            f"{files.repair_hint(root)}"
        )
    with files.opened(root, name) as descriptor:
        files.call(os.fsync, descriptor)


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
