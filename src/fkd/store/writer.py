"""Writing a label store: shards one by one in any order, by any number of processes.

    with StoreWriter.open(path, config) as writer:
        for number in writer.pending():
            writer.commit(number, ...)
        root_hash = writer.finish()

Killed at any moment and started again, this ends in the same bytes: a shard counts from the moment
its commit file is there, and what a dead process left unfinished is removed under the lock.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from fkd.errors import (
    DamagedStore,
    FormatError,
    MissingLabel,
    StoreError,
    StoreLocked,
    StoreMismatch,
)
from fkd.store import canonical, durable, files
from fkd.store.canonical import keys_digest, sha256
from fkd.store.config import StoreConfig
from fkd.store.content import LabeledCrops
from fkd.store.locks import WriterLock
from fkd.store.manifest import (
    COMMITS,
    CONFIG,
    LOCK,
    MANIFEST,
    SHARDS,
    Manifest,
    ShardEntry,
    commit_name,
    number_of,
    read_commits,
    read_config,
    read_finished,
    shard_name,
)
from fkd.store.shard import Shard, encode_shard
from fkd.store.strays import belongs, is_companion, is_temporary, list_folder

_PATIENCE = 600.0  # seconds that helpers wait for process 0, which may load a teacher first


class StoreWriter:
    """A store under construction, held by this process; see `StoreWriter.open`."""

    def __init__(
        self, path: Path, config: StoreConfig, lock: WriterLock, *, rank: int, world_size: int
    ) -> None:
        self.path = path
        self.config = config
        self._lock = lock
        self._rank, self._world_size = rank, world_size
        self._committed: set[int] = set()

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> "StoreWriter":
        """Create a store, or resume one of the same config.

        Process 0 of a run leads: it prepares the folder and shuts other runs out. The others wait
        until it has done so, and may then write shards too.

        Args:
            path: folder of the store; new, empty, or an earlier state of the same store.
            config: the identity of the store, see docs/format.md.
            rank: number of this process in the run.
            world_size: processes in the run.

        Raises:
            StoreLocked: another run is writing to it.
            StoreMismatch: it was made with another config; every differing field is named.
            DamagedStore: a committed shard is missing or damaged.
            MissingLabel: it is finished, and shards of it were never there.
            FormatError: the folder holds other files, or the config is malformed.
            StoreFull: no space.
        """
        folder = files.absolute(path)
        parsed = StoreConfig.parse(dict(config), "the config")
        if rank > 0:
            lock = WriterLock.join(folder, _PATIENCE)
            prepare = _join
        elif files.is_folder(folder) and _is_finished(folder):
            lock = WriterLock(folder)
            prepare = _look_at_finished
        else:
            require_own_folder(folder, parsed)
            durable.make_folder(folder)
            lock = WriterLock.prepare(folder)
            prepare = _prepare
        try:
            prepare(folder, parsed, lock)
            writer = StoreWriter(folder, parsed, lock, rank=rank, world_size=world_size)
            writer._look_for_commits()
            return writer
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Let other runs write; what is committed stays."""
        self._lock.release()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def num_shards(self) -> int:
        """Shards of the finished store."""
        return self.config.num_shards

    def shard_range(self, number: int) -> tuple[int, int]:
        """First image of a shard, and one past its last."""
        return self.config.shard_range(number)

    def is_committed(self, number: int) -> bool:
        """Whether a shard is complete on disk, written by this or another process."""
        if number not in self._committed and files.exists(self.path, commit_name(number)):
            self._committed.add(number)
        return number in self._committed

    def pending(self, rank: int | None = None, world_size: int | None = None) -> list[int]:
        """Shards that process `rank` of `world_size` has to write: rank, rank + world_size, ..."""
        first = self._rank if rank is None else rank
        step = self._world_size if world_size is None else world_size
        return [n for n in range(first, self.num_shards, step) if not self.is_committed(n)]

    def commit(self, number: int, keys: Sequence[bytes], crops: LabeledCrops) -> None:
        """Write one shard durably; afterwards it survives a kill and a power cut.

        A shard that another process has committed meanwhile must have the same bytes.

        Raises:
            ValueError: the content does not fit the config; a mistake of the caller.
            StoreFull: no space; nothing is lost, run again.
            DamagedStore: other bytes are there already.
        """
        first, stop = self.shard_range(number)
        if len(keys) != stop - first:
            raise ValueError(f"shard {number} has {stop - first} images, not {len(keys)}")
        shard = encode_shard(self.config, first, keys, crops)
        entry = ShardEntry(
            number=number,
            num_bytes=len(shard.data),
            sha256=shard.sha256,
            header_sha256=shard.header_sha256,
            first_image=first,
            num_images=stop - first,
            first_key=keys[0],
        )
        self.adopt(entry, shard.data)

    def adopt(self, entry: ShardEntry, data: bytes) -> None:
        """Write a shard durably that is encoded already; errors as for `commit`."""
        durable.publish(self.path, entry.file, data)
        durable.publish(self.path, commit_name(entry.number), entry.commit(self.config.config_id))
        self._committed.add(entry.number)

    def finish(
        self, environment: Mapping[str, Any] | None = None, canaries: Sequence[Any] = ()
    ) -> str:
        """Write the manifest, after reading every shard once more; the store is then finished.

        On a finished store this does nothing.

        Args:
            environment: library versions and hardware, informational; nothing that changes from
                run to run, because it is part of the root hash.
            canaries: what some crops looked like to the teacher.

        Returns:
            The root hash, which covers every byte of the store.

        Raises:
            MissingLabel: shards are not committed yet.
            DamagedStore: a shard differs from its commit, or the keys from the config.
        """
        if files.exists(self.path, MANIFEST):
            return read_finished(self.path)[0].root_hash
        entries = read_commits(self.path, self.config)
        if len(entries) < self.num_shards:
            raise MissingLabel(
                f"{self.path} has {len(entries)} of {self.num_shards} shards; "
                "label the others first"
            )
        self._check_shards(entries)
        manifest = Manifest(
            self.config.config_id, tuple(entries), dict(environment or {}), list(canaries)
        )
        data, file = manifest.encode(), str(self.path / MANIFEST)
        Manifest.parse(data, file).require_fits(self.config, file)
        durable.publish(self.path, MANIFEST, data)
        return manifest.root_hash

    def _look_for_commits(self) -> None:
        """Find the committed shards; lengths and headers are checked, `finish` checks the rest."""
        for entry in read_commits(self.path, self.config):
            Shard(self.path, self.config, entry)
            self._committed.add(entry.number)

    def _check_shards(self, entries: Sequence[ShardEntry]) -> None:
        keys: list[bytes] = []
        for entry in entries:
            shard = Shard(self.path, self.config, entry)
            if sha256(shard.file_bytes) != entry.sha256:
                raise DamagedStore(
                    f"{shard.path} differs from its commit; {files.repair_hint(self.path)}"
                )
            keys += shard.keys()
        if keys_digest(keys) != self.config.keys_sha256:
            raise DamagedStore(
                f"{self.path}: the keys of its shards are not those of its config; label it anew"
            )


def require_own_folder(path: str | os.PathLike[str], config: StoreConfig) -> None:
    """Refuse to write among files of others, or into another store; nothing is written here.

    Args:
        path: folder of the store to be; it need not exist.
        config: the identity of the store.

    Raises:
        FormatError: the folder holds other files, is a file, or lies in a store.
        StoreMismatch: it is a store of another config; every differing field is named.
        DamagedStore: its config is damaged.
    """
    folder = files.absolute(path)
    for around in folder.parents:
        if (around / CONFIG).is_file() and (around / SHARDS).is_dir():
            raise FormatError(
                f"{folder} would lie in the store {around}, to which no other files belong; give a "
                "folder beside it"
            )
    if not files.is_folder(folder):
        if files.is_something(folder):
            raise FormatError(f"{folder} is a file; give a new or empty folder for the store")
        return
    leaves = list_folder(folder)
    if CONFIG in leaves:
        _require_own_config(folder, config, leaves)
        return
    foreign = [name for name in leaves if not (belongs(name) or _is_harmless(name))]
    if LOCK in leaves and not _is_empty(folder, LOCK):
        foreign.append(LOCK)
    if foreign:
        raise _other_files(folder, foreign[0])


def _require_own_config(folder: Path, config: StoreConfig, leaves: Sequence[str]) -> None:
    """Refuse the config of another store, or of no store at all."""
    try:
        _require_same_config(folder, config)
    except (DamagedStore, FormatError) as error:
        if not {SHARDS, COMMITS, MANIFEST} & set(leaves):
            raise _other_files(folder, CONFIG) from error
        raise


def _is_harmless(name: str) -> bool:
    return is_temporary(name) or is_companion(name)


def _is_empty(folder: Path, name: str) -> bool:
    try:
        return files.read(folder, name, limit=0) == b""
    except FormatError:
        return False


def _other_files(folder: Path, name: str) -> FormatError:
    return FormatError(
        f"{folder} holds other files ({name!a}); give a new or empty folder for the store"
    )


def _is_finished(folder: Path) -> bool:
    """Whether the last file is there, and nothing that a killed run has left beside it."""
    leaves = list_folder(folder)
    return {MANIFEST, CONFIG} <= set(leaves) and not any(map(is_temporary, leaves))


def _look_at_finished(folder: Path, config: StoreConfig, lock: WriterLock) -> None:
    """What `_prepare` does where there is nothing to write: the disk may be read-only."""
    read_finished(folder)
    _require_same_config(folder, config)
    num_shards = len(read_commits(folder, config))
    if num_shards < config.num_shards:
        raise MissingLabel(
            f"{folder} is finished and has {num_shards} of its {config.num_shards} shards; get the "
            "others, or give another folder"
        )
    with suppress(StoreError):  # a run that was killed may have linked names only
        durable.sync_folder(folder)


def _prepare(folder: Path, config: StoreConfig, lock: WriterLock) -> None:
    """Bring the folder into the state from which every process can work."""
    _remove_temporaries(folder)
    if not files.exists(folder, CONFIG):
        read_commits(folder, config)  # refuses to give the shards of other settings this config
        durable.publish(folder, CONFIG, canonical.encode(config.source))
    _require_same_config(folder, config)
    lock.lead()
    for name in (SHARDS, COMMITS):
        durable.make_folder(folder / name)
    _remove_uncommitted(folder)
    # A run that was killed may have linked names without making them durable.
    for name in ("", SHARDS, COMMITS):
        durable.sync_folder(folder, name)
    lock.share()


def _join(folder: Path, config: StoreConfig, lock: WriterLock) -> None:
    """What a helper does instead of `_prepare`."""
    _require_same_config(folder, config)


def _require_same_config(folder: Path, config: StoreConfig) -> None:
    stored = read_config(folder)
    if stored.config_id != config.config_id:
        lines = list(canonical.differences(stored.source, config.source))
        raise StoreMismatch(
            f"{folder} was made with other settings: {'; '.join(lines)}. Use the same settings, or "
            "another folder"
        )


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed have left unfinished in a store's folder.

    Nothing is removed where a process is at work there.

    Raises:
        StoreError: the system refuses.
    """
    folder = files.absolute(path)
    if not any(map(is_temporary, list_folder(folder))):
        return
    try:
        lock = WriterLock.prepare(folder)
    except StoreLocked:
        return
    try:
        _remove_temporaries(folder)
    finally:
        lock.release()


def _remove_temporaries(folder: Path) -> None:
    for name in list_folder(folder):
        if is_temporary(name):
            durable.remove(folder, name)


def _remove_uncommitted(folder: Path) -> None:
    """Shards whose process died before it committed them; their content is computed again."""
    for leaf in files.names(folder, SHARDS):
        number = number_of(leaf, ".safetensors")
        if number is not None and not files.exists(folder, commit_name(number)):
            durable.remove(folder, shard_name(number))
