"""Files in a store's folder that are not the store's.

Some come with every folder on some systems (`.DS_Store`, `Thumbs.db`), with a download (`.cache/`,
`.gitattributes`) or from people (`README.md`, `LICENSE`). No reader looks at them, so they are no
damage; any other file that does not belong may be a renamed shard.
"""

import os
from pathlib import Path

from fkd.store import files
from fkd.store.manifest import (
    COMMITS,
    CONFIG,
    ENVIRONMENT,
    LOCK,
    MANIFEST,
    QUARANTINE,
    SHARDS,
    number_of,
)

_OURS = {LOCK, CONFIG, MANIFEST, SHARDS, COMMITS, QUARANTINE, ENVIRONMENT}
_SUFFIXES = {SHARDS: ".safetensors", COMMITS: ".json"}
_HARMLESS = {"thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin", "__macosx"}
_DOCUMENTS = ("readme", "license", "licence", "notice", "citation", "copying", "changelog")


def shard_number(name: str) -> int | None:
    """The shard that a name of a shard or commit means; None for other files."""
    inner, _, leaf = name.partition("/")
    suffix = _SUFFIXES.get(inner)
    return None if suffix is None else number_of(leaf, suffix)


def belongs(name: str, num_shards: int | None = None) -> bool:
    """Whether a store may have a file or folder of this name.

    Args:
        name: inside the store's folder.
        num_shards: shards of the store, where they are known.
    """
    number = shard_number(name)
    if number is None:
        return name in _OURS
    return num_shards is None or number < num_shards


def is_temporary(name: str) -> bool:
    """Whether a file is one that a writer has not finished."""
    return name.rpartition("/")[2].startswith(files.TEMPORARY)


def is_companion(name: str) -> bool:
    """Whether a file that does not belong is one that people or systems put into any folder.

    Example:
        >>> [is_companion(name) for name in (".DS_Store", "README.md", "00001.safetensors")]
        [True, True, False]
    """
    leaf = name.rpartition("/")[2].lower()
    hidden = leaf.startswith(".") and not is_temporary(name)
    return hidden or leaf in _HARMLESS or leaf.startswith(_DOCUMENTS)


def is_made_of_links(path: str | os.PathLike[str]) -> bool:
    """Whether a store's files are links, as in a cache of downloads; no lock or repair works there.

    Args:
        path: the store's folder.
    """
    folder = files.absolute(path)
    return any(os.path.islink(folder / name) for name in (CONFIG, MANIFEST, LOCK))


def list_folder(folder: Path) -> list[str]:
    """Names of everything in a store's folder and in those of its shards and commits, sorted.

    Raises:
        StoreError: a folder cannot be read.
    """
    return [
        f"{inner}/{leaf}" if inner else leaf
        for inner in ("", SHARDS, COMMITS)
        for leaf in files.names(folder, inner)
    ]


def find_companions(path: str | os.PathLike[str]) -> list[str]:
    """Files in a store's folder that are not part of it and do no harm, by name.

    Raises:
        StoreError: the folder cannot be read.
    """
    names = list_folder(files.absolute(path))
    return [name for name in names if not belongs(name) and is_companion(name)]
