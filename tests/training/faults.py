"""A disk that fails: every operation on the files of a folder is counted, and one of them fails."""

import builtins
import fcntl
import io
import os
import signal
import threading
from collections import Counter

_OF_PATHS = ("open", "mkdir", "replace", "unlink", "listdir", "scandir", "stat")
_OF_DESCRIPTORS = ("fsync", "close")
_OF_FILES = ("read", "readinto", "write", "flush", "close")
_ALIKE = 100  # of so many reads or writes of a file one is counted, and the first two


class FaultyDisk:
    """Replaces what the standard library does to files below `folder`.

    Args:
        folder: operations elsewhere are left alone.
        at: number of the operation that fails, from 0; -1 for none.
        action: an errno, "kill" before the operation, or "short" for half of a write, then ENOSPC.
    """

    def __init__(self, folder: str, at: int = -1, action: object = None) -> None:
        self.folder, self.at, self.action = str(folder), at, action
        self.count, self.failed = 0, ""
        self._lock = threading.Lock()  # TensorBoard writes from a thread

    def install(self, patch) -> None:
        """Until `patch`, a MonkeyPatch, is undone."""
        for name in _OF_PATHS:
            patch.setattr(os, name, self._of_path(name, getattr(os, name)))
        for name in _OF_DESCRIPTORS:
            patch.setattr(os, name, self._of_descriptor(name, getattr(os, name)))
        patch.setattr(fcntl, "lockf", self._of_descriptor("lockf", fcntl.lockf))
        opening = self._open(builtins.open)
        patch.setattr(builtins, "open", opening)
        patch.setattr(io, "open", opening)

    def step(self, name: str, path: str) -> None:
        """Counts an operation, and lets it fail if it is the chosen one."""
        with self._lock:
            number, self.count = self.count, self.count + 1
        if number != self.at:
            return
        self.failed = f"{name} {path}"
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(self.action, int):
            raise OSError(self.action, os.strerror(self.action), path)

    def is_short(self) -> bool:
        """Whether the operation that was counted last is to be done by half."""
        return self.action == "short" and self.count - 1 == self.at

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    def _of_path(self, name, real):
        def call(path=".", *args, **kwargs):
            if self._is_ours(path):
                self.step(name, os.fspath(path))
            return real(path, *args, **kwargs)

        return call

    def _of_descriptor(self, name, real):
        def call(descriptor, *args):
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                path = ""
            if path.startswith(self.folder):
                try:
                    self.step(name, path)
                except OSError:
                    if name == "close":  # it is closed nevertheless, as on Linux
                        real(descriptor)
                    raise
            return real(descriptor, *args)

        return call

    def _open(self, real):
        def call(path, *args, **kwargs):
            if not self._is_ours(path):
                return real(path, *args, **kwargs)
            self.step("open", os.fspath(path))
            return _File(self, os.fspath(path), real(path, *args, **kwargs))

        return call


class _File:
    """A file whose operations are counted."""

    def __init__(self, disk: FaultyDisk, path: str, file) -> None:
        self._disk, self._path, self._file = disk, path, file
        self._calls: Counter[str] = Counter()

    def __getattr__(self, name):
        real = getattr(self._file, name)
        if name not in _OF_FILES:
            return real

        def call(*args):
            self._calls[name] += 1
            if self._calls[name] > 2 and self._calls[name] % _ALIKE:
                return real(*args)
            try:
                self._disk.step(name, self._path)
                if name == "write" and self._disk.is_short():
                    real(args[0][: len(args[0]) // 2])
                    raise OSError(28, os.strerror(28))
            except OSError:
                if name == "close":
                    real()
                raise
            return real(*args)

        return call

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self):
        return iter(self._file)
