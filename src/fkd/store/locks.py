"""Who may write to a store: one leader, and the helpers that join it.

Two advisory locks (flock) on files that are there anyway; the kernel drops them when their holder
dies, however it dies:

    lock          the leader holds it alone while it prepares the folder, then shares it
    config.json   held alone by a living leader; helpers see by it that they may begin

A second leader is refused at once, also while helpers of a dead leader still run. Children that a
writer forks (data loader workers) give the locks up at birth, so they cannot keep them after it.

Windows has no such locks, and readers need none.
"""

import os
import time
import weakref
from pathlib import Path

from fkd.errors import StoreError, StoreLocked
from fkd.store import durable, files
from fkd.store.manifest import CONFIG, LOCK, MANIFEST

_POLL_SECONDS = 0.02
_PROBE_SECONDS = 2.0  # how long helpers that look for a leader may be in its way


class WriterLock:
    """A process's right to write to a store, until `release`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptors: list[int] = []
        _HELD.add(self)

    @staticmethod
    def prepare(root: Path) -> "WriterLock":
        """Be the only process at work on the store.

        Raises:
            StoreLocked: another process is.
        """
        lock = WriterLock(root)
        if not lock._take(LOCK, create=True):
            raise _locked(root)
        return lock

    def lead(self) -> None:
        """After `prepare` and once config.json exists: let helpers join.

        Raises:
            StoreLocked: the leader of another run holds the store.
        """
        deadline = time.monotonic() + _PROBE_SECONDS
        while not self._take(CONFIG):
            if time.monotonic() > deadline:
                raise _locked(self._root)
            time.sleep(_POLL_SECONDS)

    def share(self) -> None:
        """After `lead`: the folder is prepared."""
        durable.lock(self._descriptors[0], self._root / LOCK, shared=True, wait=True)

    @staticmethod
    def join(root: Path, patience: float) -> "WriterLock":
        """Be a helper of the leader; wait up to `patience` seconds for it.

        A finished store needs no leader: the one of this run may have come and gone.

        Raises:
            StoreError: no leader has prepared the store in that time.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            lock = WriterLock(root)
            if files.exists(root, MANIFEST):
                return lock
            if _has_leader(root) and lock._take(LOCK, shared=True) and _has_leader(root):
                return lock
            lock.release()
            time.sleep(_POLL_SECONDS)
        raise StoreError(f"process 0 did not open {root} within {patience:.0f} seconds")

    def release(self) -> None:
        """Give all locks up; a second time does nothing.

        Raises:
            StoreError: the system reports an error; the locks are given up all the same.
        """
        failures = []
        while self._descriptors:
            try:
                durable.close(self._descriptors.pop(), self._root / LOCK)
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _take(self, name: str, *, shared: bool = False, create: bool = False) -> bool:
        try:
            descriptor = durable.open_for_lock(self._root, name, create)
        except FileNotFoundError:
            return False
        taken = False
        try:
            taken = durable.lock(descriptor, self._root / name, shared=shared)
        finally:
            if not taken:
                durable.close(descriptor, self._root / name)
        if taken:
            self._descriptors.append(descriptor)
        return taken


def _has_leader(root: Path) -> bool:
    probe = WriterLock(root)
    free = probe._take(CONFIG, shared=True)
    probe.release()
    return not free and files.exists(root, CONFIG)


def _locked(root: Path) -> StoreLocked:
    return StoreLocked(f"another process is writing to {root}; wait for it to end, or stop it")


_HELD: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


def _forget() -> None:
    """Close inherited descriptors; the parent's locks stay, because they are not unlocked."""
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
