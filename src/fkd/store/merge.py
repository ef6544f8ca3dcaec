"""Shards of one store that were labeled in different places, joined into one folder.

Every place labels some of the shards into a folder of its own, and notes its libraries and hardware
in `environment.json`. Since shards are a function of the config and not of the place, the joined
store has the bytes and the root hash of one that was labeled in a single place like these.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError, DamagedStore, MissingLabel, StoreMismatch
from fkd.store import canonical, durable, files
from fkd.store.canonical import sha256
from fkd.store.config import StoreConfig
from fkd.store.hub import locate
from fkd.store.manifest import (
    ENVIRONMENT,
    MANIFEST,
    ShardEntry,
    read_commits,
    read_config,
    read_finished,
)
from fkd.store.shard import Shard
from fkd.store.writer import StoreWriter

_MAX_ENVIRONMENT_BYTES = 1 << 16
_SHOWN = 4


@dataclass(frozen=True)
class Part:
    """A folder with some of the shards of a store.

    Attributes:
        path: the folder.
        config: of the store.
        entries: its committed shards, by number.
        environment: libraries and hardware that made them; empty where it is not noted.
    """

    path: Path
    config: StoreConfig
    entries: list[ShardEntry]
    environment: dict[str, Any]


def note_environment(path: str | os.PathLike[str], environment: Mapping[str, Any]) -> None:
    """Note in a folder with some of the shards what made them; the newest note counts.

    Raises:
        StoreError: it cannot be written.
    """
    forget_environment(path)
    durable.publish(files.absolute(path), ENVIRONMENT, canonical.encode(dict(environment)))


def forget_environment(path: str | os.PathLike[str]) -> None:
    """Remove that note from a folder that has all shards: its manifest will say it."""
    folder = files.absolute(path)
    if files.exists(folder, ENVIRONMENT):
        durable.remove(folder, ENVIRONMENT)


def read_part(path: str | os.PathLike[str]) -> Part:
    """A folder with some, or all, of the shards of a store.

    Raises:
        StoreError: it holds no such shards, or a file of it is damaged.
    """
    folder = locate(path)
    config = read_config(folder)
    return Part(folder, config, read_commits(folder, config), _read_environment(folder))


def _read_environment(folder: Path) -> dict[str, Any]:
    """What made the shards: by the manifest of a finished store, else by the note, if there is one.

    Raises:
        StoreError: the file is damaged.
    """
    if files.exists(folder, MANIFEST):
        return read_finished(folder)[0].environment
    if not files.exists(folder, ENVIRONMENT):
        return {}
    data = files.read(folder, ENVIRONMENT, _MAX_ENVIRONMENT_BYTES)
    environment = canonical.decode(data, str(folder / ENVIRONMENT))
    if not isinstance(environment, dict):
        raise DamagedStore(f"{folder / ENVIRONMENT} is no JSON object; get it again")
    return environment


def require_whole_set(parts: Sequence[Part]) -> None:
    """Refuse parts that are not of one store, or not all of it.

    Raises:
        ConfigError: there is no part.
        StoreMismatch: they are of different stores, or hold different bytes for one shard.
        MissingLabel: no part has some of the shards; names the first.
    """
    if not parts:
        raise ConfigError("parts: give the folders that hold the shards")
    first = parts[0]
    found: dict[int, tuple[ShardEntry, Path]] = {}
    for part in parts:
        if part.config.config_id != first.config.config_id:
            lines = canonical.differences(first.config.source, part.config.source)
            raise StoreMismatch(
                f"{part.path} is no part of the same store as {first.path}: {'; '.join(lines)}"
            )
        for entry in part.entries:
            other, place = found.setdefault(entry.number, (entry, part.path))
            if other != entry:
                raise StoreMismatch(
                    f"{place} and {part.path} hold different bytes of shard {entry.number}; label "
                    "it again in one of them"
                )
    missing = [n for n in range(first.config.num_shards) if n not in found]
    if missing:
        more = ", ..." if len(missing) > _SHOWN else ""
        raise MissingLabel(
            f"{len(missing)} of {first.config.num_shards} shards are in no part, the first: "
            f"{', '.join(map(str, missing[:_SHOWN]))}{more}; label them (--shards), or give the "
            "folder that has them"
        )


def copy_shards(
    parts: Sequence[Part], writer: StoreWriter, progress: Callable[[int], None]
) -> None:
    """Write the pending shards of a store from its parts, each compared with its checksum.

    Args:
        parts: `require_whole_set` has passed them.
        writer: of the joined store.
        progress: called with the bytes of every shard that was copied.

    Raises:
        DamagedStore: a shard of a part differs from its commit.
        StoreFull: no space; nothing is lost, run again.
    """
    places = {entry.number: (part, entry) for part in parts for entry in part.entries}
    for number in writer.pending():
        part, entry = places[number]
        data = bytes(Shard(part.path, part.config, entry).file_bytes)
        if sha256(data) != entry.sha256:
            raise DamagedStore(
                f"{part.path / entry.file} differs from its commit; {files.repair_hint(part.path)}"
            )
        writer.adopt(entry, data)
        progress(entry.num_bytes)
