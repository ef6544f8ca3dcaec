"""The small files of a store's folder, read and checked."""

from pathlib import Path

from fkd.errors import DamagedStore, FormatError
from fkd.store import canonical, files
from fkd.store.config import StoreConfig
from fkd.store.manifest import (
    COMMITS,
    CONFIG,
    MANIFEST,
    MAX_COMMIT_BYTES,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Manifest,
    ShardEntry,
    commit_name,
    number_of,
    parse_commit,
)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store, which must agree with config.json.

    Raises:
        DamagedStore: one of the two files is missing or differs from its checksum.
        FormatError: malformed, or of a newer format.
    """
    data = files.read(folder, MANIFEST, MAX_MANIFEST_BYTES)
    manifest = Manifest.parse(data, str(folder / MANIFEST))
    if files.read(folder, CONFIG, MAX_CONFIG_BYTES) != canonical.encode(manifest.config.source):
        raise DamagedStore(
            f"{folder / CONFIG} differs from {MANIFEST}; {files.repair_hint(folder)}"
        )
    return manifest


def read_config(folder: Path) -> StoreConfig:
    """The config of a store that may be unfinished.

    Raises:
        DamagedStore: missing, or not canonical.
        FormatError: a field is odd.
    """
    file = str(folder / CONFIG)
    value = canonical.decode(files.read(folder, CONFIG, MAX_CONFIG_BYTES), file)
    return StoreConfig.parse(value, file)


def read_commits(folder: Path, config: StoreConfig) -> list[ShardEntry]:
    """The committed shards, by number.

    Raises:
        DamagedStore: a commit is not canonical.
        FormatError: a commit does not belong to this config, or to no shard at all.
    """
    entries = []
    for leaf in files.names(folder, COMMITS):
        number = number_of(leaf, ".json")
        if number is not None:
            entries.append(read_commit(folder, config, number))
    return sorted(entries, key=lambda entry: entry.number)


def read_commit(folder: Path, config: StoreConfig, number: int) -> ShardEntry:
    """The entry of one committed shard; errors as for `read_commits`."""
    name = commit_name(number)
    file = str(folder / name)
    if number >= config.num_shards:
        raise FormatError(f"{file} belongs to no shard of this store; move it away")
    return parse_commit(files.read(folder, name, MAX_COMMIT_BYTES), number, config, file)
