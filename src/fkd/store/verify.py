"""Check every byte of a store, and move damaged parts out of the way.

`verify_store` trusts nothing: it hashes whole files, compares the small files with each other and
with their canonical form, checks every row, and names files that do not belong. `repair_store`
moves damaged files to quarantine/, and the command that made the store writes them again; nothing
is deleted.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial as bind
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from fkd.errors import DamagedStore, FormatError, NewerFormat, StoreError
from fkd.store import durable, files
from fkd.store.canonical import keys_digest, printable, sha256
from fkd.store.config import StoreConfig
from fkd.store.content import LABELED, check_content
from fkd.store.geometry import geometry_crc32
from fkd.store.hub import locate
from fkd.store.locks import WriterLock
from fkd.store.manifest import (
    COMMITS,
    CONFIG,
    LOCK,
    MANIFEST,
    QUARANTINE,
    SHARDS,
    Manifest,
    ShardEntry,
    commit_name,
    number_of,
    read_commit,
    read_config,
    read_manifest,
    shard_name,
)
from fkd.store.opening import find_shards
from fkd.store.shard import Shard, read_crops
from fkd.store.strays import belongs, is_companion, is_temporary, list_folder, shard_number

T = TypeVar("T")
_CHUNK_ROWS, _CHUNK_NUMBERS = 256, 1 << 22
Progress = Callable[[int, int], None]  # shards done, shards in all


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file of a store.

    Attributes:
        file: its name inside the folder.
        message: what is wrong.
        repairable: whether `repair_store`, and the command that made the store, put it right.
    """

    file: str
    message: str
    repairable: bool = True


def verify_store(
    path: str | os.PathLike[str], progress: Progress | None = None, *, partial: bool = False
) -> list[Problem]:
    """Everything that is wrong with a store; an empty list if nothing is.

    Args:
        path: the folder.
        progress: called after every shard.
        partial: the store may be unfinished, or shards of a finished one may not be there; neither
            is a problem then, nor is what a running or killed process leaves behind.

    Raises:
        FormatError: the folder is no label store at all, or (NewerFormat) of a newer format.

    Example:
        >>> from fkd import verify_store
        >>> verify_store("labels")
        []
    """
    folder = locate(path)
    return _Check(folder, partial).run(progress or (lambda done, total: None))


def repair_store(path: str | os.PathLike[str], *, partial: bool = False) -> list[str]:
    """Move damaged files, and the commits of damaged shards, to quarantine/; their new names.

    The command that made it then writes what is missing again and finishes the store.

    Args:
        path: the folder.
        partial: shards of a finished store may not be there. Its manifest then stays, if it is
            sound: what was moved is to be fetched again.

    Raises:
        StoreLocked: a process is writing to the store.
        StoreError: the system does not let a file be read; nothing is moved.
        FormatError: the folder is no label store at all, or (NewerFormat) of a newer format.
    """
    folder = files.absolute(path)
    _require_store(folder)
    lock = WriterLock.prepare(folder)
    try:
        may_lack = partial or not files.exists(folder, MANIFEST)
        problems = _Check(folder, may_lack, repairs=True).run(lambda done, total: None)
        broken = {problem.file for problem in problems if problem.repairable}
        return _quarantine(folder, broken, keep_manifest=partial)
    finally:
        lock.release()


def set_shards_aside(path: str | os.PathLike[str], numbers: Iterable[int]) -> list[str]:
    """Move these shards, their commits and the manifest to quarantine/; their new names.

    Labeling then makes them again. For shards that are sound, but not of the images of now.

    Raises:
        StoreLocked: a process is writing to the store.
    """
    folder = files.absolute(path)
    lock = WriterLock.prepare(folder)
    try:
        return _quarantine(folder, [shard_name(number) for number in numbers])
    finally:
        lock.release()


class _Check:
    """One pass over a store; problems are collected, not raised."""

    def __init__(self, folder: Path, partial: bool, *, repairs: bool = False) -> None:
        self._folder = folder
        self._partial = partial
        self._repairs = repairs  # a file that cannot be read now is not damaged
        self._problems: list[Problem] = []

    def run(self, progress: Progress) -> list[Problem]:
        _require_store(self._folder)
        manifest = self._manifest()
        config_id = None if manifest is None else manifest.config_id
        config = self._attempt(CONFIG, bind(read_config, self._folder, config_id))
        if config is not None:
            if manifest is not None and not self._fits(manifest, config):
                manifest = None
            self._shards(config, manifest, progress)
            self._strays(config)
        return self._problems

    def _report(self, file: str, message: str) -> None:
        self._problems.append(Problem(file, message))

    def _attempt(self, file: str, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except StoreError as error:
            unreadable = not isinstance(error, DamagedStore | FormatError)
            if isinstance(error, NewerFormat) or (unreadable and self._repairs):
                raise  # nothing is damaged, as far as can be seen
            self._problems.append(Problem(file, str(error), repairable=not unreadable))
            return None

    def _manifest(self) -> Manifest | None:
        if not files.exists(self._folder, MANIFEST):
            if not self._partial:
                message = "is missing: the store is not finished; run the command that made it"
                self._problems.append(Problem(MANIFEST, message, repairable=False))
            return None
        return self._attempt(MANIFEST, bind(read_manifest, self._folder))

    def _fits(self, manifest: Manifest, config: StoreConfig) -> bool:
        before = len(self._problems)
        file = str(self._folder / MANIFEST)
        self._attempt(MANIFEST, bind(manifest.require_fits, config, file))
        return len(self._problems) == before

    def _shards(self, config: StoreConfig, manifest: Manifest | None, progress: Progress) -> None:
        keys: list[bytes] = []
        numbers = self._numbers(config, manifest)
        for done, number in enumerate(numbers, 1):
            listed = manifest.shards[number] if manifest else None
            entry = self._commit(config, number, listed)
            if entry is not None:
                checked = self._attempt(shard_name(number), bind(self._shard, config, entry))
                keys += checked or []
            progress(done, len(numbers))
        if not self._problems and len(numbers) == config.num_shards and manifest is not None:
            self._check_keys(keys, config)

    def _numbers(self, config: StoreConfig, manifest: Manifest | None) -> Sequence[int]:
        """The shards that should be there."""
        if manifest is None:
            return self._committed(config)
        if not self._partial:
            return range(config.num_shards)
        return sorted(self._attempt(SHARDS, bind(find_shards, self._folder, config)) or [])

    def _committed(self, config: StoreConfig) -> list[int]:
        """Shards of an unfinished store: the config alone may claim any number of them."""
        leaves = self._attempt(COMMITS, bind(files.names, self._folder, COMMITS)) or []
        numbers = (number_of(leaf, ".json") for leaf in leaves)
        return sorted(n for n in numbers if n is not None and n < config.num_shards)

    def _commit(
        self, config: StoreConfig, number: int, listed: ShardEntry | None
    ) -> ShardEntry | None:
        """What the manifest says about a shard, else its commit; they must agree."""
        name = commit_name(number)
        entry = self._attempt(name, bind(read_commit, self._folder, config, number))
        if entry is not None and listed is not None and entry != listed:
            self._report(name, f"differs from {MANIFEST}")
        return listed or entry

    def _shard(self, config: StoreConfig, entry: ShardEntry) -> list[bytes]:
        """The keys of a sound shard."""
        shard = Shard(self._folder, config, entry)
        keys = shard.keys()
        if keys[0] != entry.first_key:
            raise FormatError(f"{shard.path} begins with another key than its commit says")
        shard.check_records()
        is_whole = sha256(shard.file_bytes) == entry.sha256
        step = max(1, min(_CHUNK_ROWS, _CHUNK_NUMBERS // config.numbers_per_image))
        for first in range(0, len(shard), step):
            rows = range(first, min(first + step, len(shard)))
            drawn = _check_rows(config, shard, keys, rows)
            if is_whole and not drawn:  # crops of a damaged file say nothing about this machine
                raise FormatError(
                    f"{shard.path}: crops drawn on this machine are not those that were labeled; "
                    "convert the store to the plain form where it was made"
                )
        if not is_whole:
            raise DamagedStore(f"{shard.path} differs from its checksum")
        return keys

    def _check_keys(self, keys: list[bytes], config: StoreConfig) -> None:
        if any(a >= b for a, b in pairwise(keys)):
            self._report(MANIFEST, "keys are not ascending from shard to shard")
        elif keys_digest(keys) != config.keys_sha256:
            self._report(MANIFEST, "the keys of the shards are not those of the config")

    def _strays(self, config: StoreConfig) -> None:
        for name in self._attempt("", bind(list_folder, self._folder)) or []:
            unfinished = self._partial and is_temporary(name)
            if not (belongs(name, config.num_shards) or is_companion(name) or unfinished):
                shown = printable(os.fsencode(name))
                message = "does not belong to the store; move it away"
                self._problems.append(Problem(shown, message, repairable=False))
        if files.exists(self._folder, LOCK):
            self._attempt(LOCK, lambda: files.read(self._folder, LOCK, limit=0))


def _require_store(folder: Path) -> None:
    files.require_folder(folder)
    if not files.exists(folder, MANIFEST) and not files.exists(folder, CONFIG):
        raise FormatError(f"{folder} is not a label store: it has no {MANIFEST}")


def _check_rows(config: StoreConfig, shard: Shard, keys: list[bytes], rows: range) -> bool:
    """Checksums, and what no label may hold: boxes outside the image, unknown classes, NaN.

    Returns whether boxes that are drawn again are those that the teacher saw.
    """
    numbers = np.broadcast_to(np.arange(config.num_crops), (len(rows), config.num_crops))
    crops = read_crops(config, [shard] * len(rows), rows, numbers)
    try:
        check_content(config, keys[rows.start : rows.stop], crops)
    except ValueError as error:
        raise FormatError(f"{shard.path}: {error}") from error
    written = shard.geometry_crc32(np.array(rows))
    if written is None:
        return True
    labeled = crops.images.status == LABELED
    drawn = geometry_crc32(crops.records.box[labeled], crops.records.flip[labeled])
    return np.array_equal(drawn, written[labeled])


def _quarantine(folder: Path, broken: Iterable[str], *, keep_manifest: bool = False) -> list[str]:
    broken = set(broken)
    numbers = {number for name in broken if (number := shard_number(name)) is not None}
    doomed = [name(number) for number in sorted(numbers) for name in (shard_name, commit_name)]
    if CONFIG in broken:
        doomed.append(CONFIG)
    if (numbers and not keep_manifest) or MANIFEST in broken:
        doomed.append(MANIFEST)
    doomed = [name for name in doomed if files.exists(folder, name)]
    if doomed:
        durable.make_folder(folder / QUARANTINE)
    # The manifest goes first: a kill in between then leaves an unfinished store, not a wrong one.
    return [durable.move(folder, name, QUARANTINE) for name in reversed(doomed)]
