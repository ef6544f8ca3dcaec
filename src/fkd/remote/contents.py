"""What is sent and fetched: the files of a store or of a run, with lengths and checksums.

The list of a store is its manifest. That of a run is written when it is pushed:

    files.json   {"files": [{"bytes": 512, "name": "config.json", "sha256": "..."}, ...],
                  "format": "fkd-files", "format_version": 1}

Either list is sent and written last, so that what has one is complete. A list from elsewhere is not
trusted: names of a store's files follow from their numbers, those of a run's are checked here.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError, DamagedStore, FormatError, MissingLabel, RemoteError, RunError
from fkd.store import canonical
from fkd.store.canonical import Fields
from fkd.store.config import StoreConfig
from fkd.store.manifest import (
    CONFIG,
    MANIFEST,
    Manifest,
    ShardEntry,
    commit_name,
    read_finished,
)
from fkd.userfiles import os_reason

FILES = "files.json"
FINAL_WEIGHTS = "model.safetensors"
RUN_CONFIG = "config.yaml"
_FORMAT, _VERSION = "fkd-files", 1
_MAX_FILES, _MAX_DEPTH, _MAX_BYTES = 10_000, 4, 1 << 42
_LEFT_OUT = ("checkpoints", "lock")
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One file.

    Attributes:
        name: relative, with slashes.
        num_bytes: its length.
        sha256: of its bytes, hexadecimal.
    """

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """A store or a run as files.

    Attributes:
        kind: "store" or "run".
        items: all files but the list.
        list_name: of the list.
        list_bytes: of the list.
        root_hash: of a store; of a run, SHA-256 of its list.
    """

    kind: str
    items: tuple[Item, ...]
    list_name: str
    list_bytes: bytes
    root_hash: str

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(item.num_bytes for item in self.items) + len(self.list_bytes)


def store_contents(manifest: Manifest, config_bytes: int) -> Contents:
    """The files of a finished store.

    Args:
        manifest: of the store.
        config_bytes: length of its config.json.
    """
    items = [Item(CONFIG, config_bytes, manifest.config_id)]
    for entry in manifest.shards:
        items += [Item(entry.file, entry.num_bytes, entry.sha256), commit_item(entry, manifest)]
    return Contents("store", tuple(items), MANIFEST, manifest.encode(), manifest.root_hash)


def commit_item(entry: ShardEntry, manifest: Manifest) -> Item:
    """The commit of a shard, which follows from the manifest."""
    data = entry.commit(manifest.config_id)
    return Item(commit_name(entry.number), len(data), canonical.sha256(data))


def read_folder(folder: Path, *, checkpoints: bool = False) -> Contents:
    """What a folder holds: a finished store, or a finished run.

    Args:
        folder: of it.
        checkpoints: whether those of a run belong to it.

    Raises:
        ConfigError: it holds neither.
        MissingLabel: shards of the store are missing, or it is not finished.
        RunError: the run is not finished, or a file of it cannot be read or be named elsewhere.
        StoreError: the store is damaged.
    """
    if not folder.is_dir():
        raise ConfigError(f"source: {folder} is no folder; give that of a store or of a run")
    names = set(os.listdir(folder))
    if MANIFEST in names:
        return _read_store(folder)
    if RUN_CONFIG in names:
        return _read_run(folder, names, checkpoints)
    if CONFIG in names and "commits" in names:
        raise MissingLabel(
            f"{folder} is a store that is not finished; run the command that labels it again, or "
            "`fkd merge` its parts"
        )
    raise ConfigError(
        f"source: {folder} is neither a label store (it has no {MANIFEST}) nor the folder of a run "
        f"(no {RUN_CONFIG})"
    )


def _read_store(folder: Path) -> Contents:
    manifest, _ = read_finished(folder)
    missing = [e.file for e in manifest.shards if not (folder / e.file).is_file()]
    if missing:
        raise MissingLabel(
            f"{folder} has {len(manifest.shards) - len(missing)} of its {len(manifest.shards)} "
            f"shards, the first that is not there is {missing[0]}; fetch the others (`fkd pull`)"
        )
    return store_contents(manifest, (folder / CONFIG).stat().st_size)


def _read_run(folder: Path, names: Iterable[str], checkpoints: bool) -> Contents:
    if FINAL_WEIGHTS not in names:
        raise RunError(
            f"{folder} is a run that is not finished: it has no {FINAL_WEIGHTS}; run the command "
            "that trains it again"
        )
    left_out = _LEFT_OUT[checkpoints:]
    found = []
    for place, folders, leaves in os.walk(folder):
        below = Path(place).relative_to(folder)
        if below == Path():
            folders[:] = [name for name in folders if name not in left_out]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [below / leaf for leaf in leaves if _is_sent(leaf) and leaf != "lock"]
    items = [_describe_file(folder, path.as_posix()) for path in sorted(found)]
    return run_contents([item for item in items if item.name != FILES])


def _is_sent(leaf: str) -> bool:
    return not leaf.startswith((".", "README")) and not leaf.endswith(".tmp")


def _describe_file(folder: Path, name: str) -> Item:
    try:
        require_name(name, str(folder))
        with open(folder / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Item(name, file.tell(), digest)
    except OSError as error:
        raise RunError(f"{folder / name} cannot be read: {os_reason(error)}") from error


def run_contents(items: Sequence[Item]) -> Contents:
    """The files of a run; its weights are the last, since they say that it is finished."""
    ordered = sorted(items, key=lambda item: (item.name == FINAL_WEIGHTS, item.name))
    data = canonical.encode(
        {
            "files": [{"bytes": i.num_bytes, "name": i.name, "sha256": i.sha256} for i in ordered],
            "format": _FORMAT,
            "format_version": _VERSION,
        }
    )
    return Contents("run", tuple(ordered), FILES, data, canonical.sha256(data))


def parse_files(data: bytes, file: str) -> Contents:
    """The list of a run's files.

    Raises:
        RemoteError: it is malformed, of a newer version, or names what is outside of a folder.
    """
    require_list(data, file)
    try:
        value = canonical.decode(data, file)
        fields = Fields(value, file)
        if fields.text("format") != _FORMAT or fields.integer("format_version", 1, 1 << 20) != 1:
            raise RemoteError(f"{file} is no list of files that this version of fkd reads")
        listed = [
            _parse_item(item, f"{file}: files.{i}") for i, item in enumerate(fields.items("files"))
        ]
    except (FormatError, DamagedStore) as error:
        raise RemoteError(str(error)) from error
    _require_distinct(listed, file)
    return run_contents(listed)


def _parse_item(value: Any, file: str) -> Item:
    fields = Fields(value, file)
    fields.exactly("bytes", "name", "sha256")
    name = fields.text("name")
    require_name(name, file)
    return Item(name, fields.integer("bytes", 0, _MAX_BYTES), fields.digest("sha256"))


def require_name(name: str, file: str) -> None:
    """Refuse a name that is not one of a plain file below a folder, on every system.

    Raises:
        RemoteError: it is none.
    """
    parts = name.split("/")
    sound = len(parts) <= _MAX_DEPTH and all(
        _COMPONENT.fullmatch(part) and not part.endswith(".") and not _RESERVED.fullmatch(part)
        for part in parts
    )
    if not sound:
        raise RemoteError(
            f"{file} names {name!a}, which is no plain name of a file below a folder "
            "(letters, digits and . _ + = -); rename it in the folder that is pushed"
        )


def _require_distinct(items: Sequence[Item], file: str) -> None:
    """Refuse too many files, a name twice (also in another case), and a file that is a folder."""
    if not items or len(items) > _MAX_FILES:
        raise RemoteError(f"{file} lists {len(items):,} files; 1 to {_MAX_FILES:,} are allowed")
    names = {item.name.lower() for item in items}
    folders = {
        "/".join(name.split("/")[:depth])
        for name in names
        for depth in range(1, name.count("/") + 1)
    }
    if len(names) < len(items) or names & (folders | {FILES}):
        raise RemoteError(f"{file} names a file twice, or as a file and as a folder; push it again")


def require_list(data: bytes, file: str) -> None:
    """Refuse what is no list of files at all, such as a page that asks to log in.

    Raises:
        RemoteError: shows how it begins.
    """
    if not data.lstrip().startswith(b"{"):
        begins = ascii(data[:40].decode("latin-1"))
        raise RemoteError(
            f"{file} is no list of files, it begins with {begins}; correct the address, or give "
            "one that sends files to those who are not logged in"
        )


def parse_store(data: bytes, file: str) -> Manifest:
    """The manifest of a store elsewhere.

    Raises:
        RemoteError: it is damaged or malformed.
    """
    require_list(data, file)
    try:
        return Manifest.parse(data, file)
    except DamagedStore as error:
        raise RemoteError(
            f"{file} was changed: its root hash differs; push the store again"
        ) from error
    except FormatError as error:
        raise RemoteError(str(error)) from error


def parse_config(data: bytes, manifest: Manifest, file: str) -> StoreConfig:
    """The config of a store elsewhere, which must be that of its manifest.

    Raises:
        RemoteError: it is another one, or malformed.
    """
    if canonical.sha256(data) != manifest.config_id:
        raise RemoteError(f"{file} differs from its checksum in {MANIFEST}; push the store again")
    try:
        config = StoreConfig.parse(canonical.decode(data, file), file)
        manifest.require_fits(config, file)
    except (DamagedStore, FormatError) as error:
        raise RemoteError(str(error)) from error
    return config
