"""What the small files of a store say, read and checked when it is opened."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fkd.errors import FormatError, MissingLabel
from fkd.store import files
from fkd.store.config import StoreConfig
from fkd.store.manifest import (
    CONFIG,
    MANIFEST,
    SHARDS,
    ShardEntry,
    number_of,
    read_commits,
    read_config,
    read_finished,
    shard_name,
)
from fkd.store.provenance import (
    UNKNOWN_LIBRARIES,
    Canary,
    Libraries,
    parse_canaries,
    parse_libraries,
)

USE_PARTIAL = (
    "--partial of train, verify, inspect and view, in Python LabelStore.open(..., partial=True)"
)
_MANY_IMAGES = 1 << 20  # from here on the lengths of all shards are looked at


@dataclass(frozen=True)
class Opened:
    """What is known of a store once its small files are read.

    Attributes:
        config: its identity.
        shards: those that are known: all of a finished store, the committed ones of another.
        there: numbers of those of them that are there.
        root_hash: covers every byte; None for an unfinished store.
        canaries: what some crops looked like to the teacher.
        environment: library versions and hardware that made the store, as JSON.
        libraries: those of them on which the last bits of pixels depend.
    """

    config: StoreConfig
    shards: Sequence[ShardEntry]
    there: frozenset[int]
    root_hash: str | None = None
    canaries: tuple[Canary, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    libraries: Libraries = UNKNOWN_LIBRARIES


def read_store(folder: Path, *, partial: bool) -> Opened:
    """Read the small files of a store.

    Args:
        folder: of the store.
        partial: also accept a store that is not finished, or of which only some shards are there.

    Raises:
        FormatError: not a label store, or of a newer format.
        MissingLabel: shards are missing, and `partial` is not set; or all of a finished store are.
        DamagedStore: the small files differ from their checksums.
    """
    files.require_folder(folder)
    if files.exists(folder, MANIFEST):
        return _read_finished(folder, partial)
    if not files.exists(folder, CONFIG):
        raise FormatError(f"{folder} is not a label store: it has no {MANIFEST}")
    config = read_config(folder)
    shards = read_commits(folder, config)
    if not partial:
        verb = "label" if config.grid is None else "label-maps"
        raise MissingLabel(
            f"{folder} is not finished: {len(shards)} of {config.num_shards} shards are there; "
            f"run the same `fkd {verb}` or `fkd pull` command again, or use those that are there "
            f"({USE_PARTIAL})"
        )
    return Opened(config, shards, frozenset(entry.number for entry in shards))


def find_shards(folder: Path, config: StoreConfig) -> frozenset[int]:
    """Numbers of the shards whose files are there, whatever they hold."""
    numbers = (number_of(leaf, ".safetensors") for leaf in files.names(folder, SHARDS))
    return frozenset(n for n in numbers if n is not None and n < config.num_shards)


def _read_finished(folder: Path, partial: bool) -> Opened:
    manifest, config = read_finished(folder)
    there = find_shards(folder, config)
    if len(there) < config.num_shards and not (partial and there):
        missing = next(n for n in range(config.num_shards) if n not in there)
        use = f", or use those that are there ({USE_PARTIAL})" if there else ""
        raise MissingLabel(
            f"{folder} has {len(there)} of its {config.num_shards} shards, the first that is not "
            f"there is {shard_name(missing)}; get the others{use}; if some were lost, "
            f"{files.repair_hint(folder)}"
        )
    file = str(folder / MANIFEST)
    if config.num_images > _MANY_IMAGES:
        # Memory is taken for as many images as a store claims to have, so they must be there.
        for number in sorted(there):
            entry = manifest.shards[number]
            files.require_length(folder, entry.file, entry.num_bytes)
    return Opened(
        config,
        manifest.shards,
        there,
        manifest.root_hash,
        parse_canaries(manifest.canaries, config.num_images, config.num_crops, file),
        manifest.environment,
        parse_libraries(manifest.environment, file),
    )
