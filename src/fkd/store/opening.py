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
    ShardEntry,
    read_commits,
    read_config,
    read_finished,
)
from fkd.store.provenance import (
    UNKNOWN_LIBRARIES,
    Canary,
    Libraries,
    parse_canaries,
    parse_libraries,
)

_MANY_IMAGES = 1 << 20  # from here on the lengths of all shards are looked at


@dataclass(frozen=True)
class Opened:
    """What is known of a store once its small files are read.

    Attributes:
        config: its identity.
        shards: those that are there.
        root_hash: covers every byte; None for an unfinished store.
        canaries: what some crops looked like to the teacher.
        environment: library versions and hardware that made the store, as JSON.
        libraries: those of them on which the last bits of pixels depend.
    """

    config: StoreConfig
    shards: Sequence[ShardEntry]
    root_hash: str | None = None
    canaries: tuple[Canary, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    libraries: Libraries = UNKNOWN_LIBRARIES


def read_store(folder: Path, *, partial: bool) -> Opened:
    """Read the small files of a store.

    Args:
        folder: of the store.
        partial: also accept a store that is not finished.

    Raises:
        FormatError: not a label store, or of a newer format.
        MissingLabel: not finished, and `partial` is not set.
        DamagedStore: the small files differ from their checksums.
    """
    files.require_folder(folder)
    if files.exists(folder, MANIFEST):
        return _read_finished(folder)
    if not files.exists(folder, CONFIG):
        raise FormatError(f"{folder} is not a label store: it has no {MANIFEST}")
    config = read_config(folder)
    shards = read_commits(folder, config)
    if not partial:
        verb = "label" if config.grid is None else "label-maps"
        raise MissingLabel(
            f"{folder} is not finished: {len(shards)} of {config.num_shards} shards are labeled; "
            f"run the same `fkd {verb}` command again"
        )
    return Opened(config, shards)


def _read_finished(folder: Path) -> Opened:
    manifest, config = read_finished(folder)
    file = str(folder / MANIFEST)
    if config.num_images > _MANY_IMAGES:
        # Memory is taken for as many images as a store claims to have, so they must be there.
        for entry in manifest.shards:
            files.require_length(folder, entry.file, entry.num_bytes)
    return Opened(
        config,
        manifest.shards,
        manifest.root_hash,
        parse_canaries(manifest.canaries, config.num_images, config.num_crops, file),
        manifest.environment,
        parse_libraries(manifest.environment, file),
    )
