"""`pull`: a store or a run from elsewhere, into a folder here.

1. the list of its files (manifest.json or files.json) and the config of a store; checked
2. what the folder has already; another store or run in it is refused
3. the missing files, several at a time: part, checksum, name
4. what says "finished": the manifest of a store, the weights of a run
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fkd.errors import ConfigError, NotThere, RemoteError, StoreMismatch
from fkd.remote.addresses import Address
from fkd.remote.attempts import Watch, for_each, patiently
from fkd.remote.contents import (
    FILES,
    FINAL_WEIGHTS,
    RUN_CONFIG,
    Contents,
    Item,
    parse_config,
    parse_files,
    parse_store,
    store_contents,
)
from fkd.remote.parts import Parts, is_there, is_within, require_space, writing
from fkd.remote.places import Place, open_places
from fkd.store import durable
from fkd.store.manifest import (
    COMMITS,
    CONFIG,
    MANIFEST,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    SHARDS,
    Manifest,
    commit_name,
    read_manifest,
)
from fkd.store.strays import is_companion
from fkd.store.writer import remove_leftovers

_MAX_FILES_BYTES = 1 << 24

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Pulled:
    """What a folder has after a pull.

    Attributes:
        folder: the folder.
        kind: "store" or "run".
        root_hash: of the store; of a run, SHA-256 of the list of its files.
        num_files: that were fetched now.
        num_bytes: of them.
        num_bytes_there: that were there already.
        shards: numbers of the shards of a store that are there.
        num_shards: that the store has.
    """

    folder: Path
    kind: str
    root_hash: str
    num_files: int
    num_bytes: int
    num_bytes_there: int
    shards: Sequence[int] = ()
    num_shards: int = 0


@dataclass(frozen=True)
class _Source:
    """What is at an address."""

    place: Place
    contents: Contents
    manifest: Manifest | None = None
    config: bytes = b""


def pull(
    address: Address,
    folder: Path,
    *,
    shards: Callable[[int], Iterable[int]] | None = None,
    root_hash: str | None = None,
    revision: str | None = None,
    options: Mapping[str, Any] | None = None,
    num_threads: int = 8,
    progress: Progress = lambda done, total: None,
) -> Pulled:
    """Fetch a store or a run, or what of it is missing in the folder.

    Args:
        address: where it is.
        folder: new, empty, or with some of the files of the same store or run.
        shards: which shards of a store, of so many; by default all.
        root_hash: that the store must have.
        revision: of a repository of the hub.
        options: of the file system, as fsspec takes them.
        num_threads: files that are fetched at a time.
        progress: called with the bytes that are there, and all bytes.

    Raises:
        ConfigError: an option is impossible, or a package is missing.
        StoreMismatch: the folder has another store, or the store has another root hash.
        NotThere: there is neither a store nor a run at the address.
        RemoteError: the place refuses or does not answer, bytes differ from their checksum twice,
            or the folder cannot be written.
    """
    source = _find(open_places(address, options or {}, revision), address)
    _require_root_hash(source, root_hash, address)
    if shards is not None and source.manifest is None:
        raise ConfigError(f"shards: {address} holds a run, which has none; leave them out")
    if (
        address.kind == "folder"
        and folder != Path(address.url)
        and is_within(folder, Path(address.url))
    ):
        raise ConfigError(f"folder: {folder} is in {address}; give another folder")
    _require_destination(source, folder, address)
    numbers = _chosen(source, shards)
    transfer = _Transfer(source, folder, _wanted(source, numbers), num_threads, progress)
    with transfer.parts.open():
        fetched = transfer.run()
    there = sum(item.num_bytes for item in transfer.items) - sum(i.num_bytes for i in fetched)
    return Pulled(
        folder,
        source.contents.kind,
        source.contents.root_hash,
        len(fetched),
        sum(item.num_bytes for item in fetched),
        there,
        _present(source, folder),
        len(source.manifest.shards) if source.manifest else 0,
    )


def _find(places: Sequence[Place], address: Address) -> _Source:
    """The store or the run at an address."""
    watch, first = Watch(), None
    for place in places:

        def read(name: str, limit: int, place: Place = place) -> bytes:
            return patiently(lambda: place.read(name, limit), f"{place}/{name}", watch)

        try:
            data = read(MANIFEST, MAX_MANIFEST_BYTES)
        except NotThere as error:
            first = first or error
        else:
            manifest = parse_store(data, f"{place}/{MANIFEST}")
            config = _listed(lambda: read(CONFIG, MAX_CONFIG_BYTES), place, CONFIG)
            parse_config(config, manifest, f"{place}/{CONFIG}")
            return _Source(place, store_contents(manifest, len(config)), manifest, config)
        try:
            data = read(FILES, _MAX_FILES_BYTES)
        except NotThere:
            continue
        return _Source(place, parse_files(data, f"{place}/{FILES}"))
    why = f": {first}" if address.kind == "hub" else ""
    raise NotThere(
        f"{address} has neither {MANIFEST} (of a store) nor {FILES} (of a run that `fkd push` has "
        f"sent){why}; correct the address, log in where it is private, or push it first"
    ) from first


def _listed(fetch: Callable[[], T], place: Place, name: str) -> T:
    """What is fetched of a file that a list names.

    Raises:
        NotThere: it is not there all the same.
    """
    try:
        return fetch()
    except NotThere as error:
        raise NotThere(
            f"{place} has no {name}, although its list of files names it; push it there again"
        ) from error


def _require_root_hash(source: _Source, root_hash: str | None, address: Address) -> None:
    if root_hash is not None and source.contents.root_hash != root_hash.lower():
        raise StoreMismatch(
            f"{address} has the root hash {source.contents.root_hash}, not {root_hash}; nothing "
            "was fetched"
        )


def _require_destination(source: _Source, folder: Path, address: Address) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ConfigError: it is a file, or is not empty and holds neither a store nor a run.
        StoreMismatch: it holds another store or run; names both root hashes, or the file.
    """
    if not folder.exists():
        if folder.is_symlink():
            raise ConfigError(f"folder: {folder} is a link to nowhere; remove it")
        return
    if not folder.is_dir():
        raise ConfigError(f"folder: {folder} is a file; give a folder")
    try:
        names = [name for name in os.listdir(folder) if not is_companion(name)]
    except OSError as error:
        raise ConfigError(f"folder: {folder} cannot be read: {error.strerror}") from error
    if names and not {CONFIG, RUN_CONFIG, SHARDS} & set(names):
        raise ConfigError(
            f"folder: {folder} is not empty and holds neither a store nor a run ({min(names)} is "
            "in it); give another folder"
        )
    if source.manifest is not None:
        _require_same_store(source, source.manifest, folder, set(names), address)
        return
    for item in source.contents.items:
        if (folder / item.name).exists() and not is_there(folder, item):
            raise StoreMismatch(
                f"{folder} holds another run than {address}: {item.name} differs; give another "
                "folder"
            )


def _require_same_store(
    source: _Source, manifest: Manifest, folder: Path, names: set[str], address: Address
) -> None:
    if MANIFEST in names:
        here = read_manifest(folder).root_hash
        if here != manifest.root_hash:
            raise StoreMismatch(
                f"{folder} holds another store: its root hash is {here}, that of {address} is "
                f"{manifest.root_hash}; give another folder"
            )
        return
    if CONFIG in names and (folder / CONFIG).read_bytes() != source.config:
        raise StoreMismatch(
            f"{folder} holds another store, which is not finished: its {CONFIG} differs from that "
            f"of {address} (root hash {manifest.root_hash}); give another folder"
        )
    for entry in manifest.shards:
        commit = folder / commit_name(entry.number)
        if commit.is_file() and commit.read_bytes() != entry.commit(manifest.config_id):
            raise StoreMismatch(
                f"{folder} has shard {entry.number} with other labels than {address}; it was "
                "labeled elsewhere, so give another folder"
            )


def _chosen(source: _Source, shards: Callable[[int], Iterable[int]] | None) -> list[int]:
    """Numbers of the shards to fetch.

    Raises:
        ConfigError: there are none.
    """
    count = len(source.manifest.shards) if source.manifest else 0
    numbers = list(range(count)) if shards is None else sorted(shards(count))
    if count and not numbers:
        raise ConfigError(
            f"shards: the store has {count} shards, none of which is meant; give others"
        )
    return numbers


def _wanted(source: _Source, numbers: Sequence[int]) -> list[Item]:
    """The files to fetch, the one that finishes a run at the end."""
    if source.manifest is None:
        return list(source.contents.items)
    entries = [source.manifest.shards[number] for number in numbers]
    return [Item(entry.file, entry.num_bytes, entry.sha256) for entry in entries]


def _present(source: _Source, folder: Path) -> list[int]:
    entries = source.manifest.shards if source.manifest else ()
    return [entry.number for entry in entries if (folder / entry.file).is_file()]


class _Transfer:
    """Fetches files into a folder."""

    def __init__(
        self,
        source: _Source,
        folder: Path,
        items: Sequence[Item],
        num_threads: int,
        progress: Progress,
    ) -> None:
        self.parts = Parts(folder)
        self.items = items
        self._source = source
        self._folder = folder
        self._num_threads = num_threads
        self._progress = progress
        self._total = sum(item.num_bytes for item in items)
        self._done = 0
        self._watch = Watch(self._count)

    def run(self) -> list[Item]:
        """Fetch what is missing; which files that were."""
        self._prepare()
        missing: list[Item] = []

        def look(item: Item) -> None:
            if is_there(self._folder, item):
                self._finish_shard(item)
                self._watch.advance(item.num_bytes)
            else:
                missing.append(item)

        for_each(self.items, look, self._watch, self._num_threads)
        order = {item.name: position for position, item in enumerate(self.items)}
        missing.sort(key=lambda item: order[item.name])
        have = sum(self.parts.length(item) for item in missing)
        require_space(self._folder, sum(item.num_bytes for item in missing) - have)
        early = [item for item in missing if item.name != FINAL_WEIGHTS]
        for_each(early, self._fetch, self._watch, self._num_threads)
        for item in missing[len(early) :]:
            self._fetch(item)
        if self._source.manifest is not None:
            durable.publish(self._folder, MANIFEST, self._source.contents.list_bytes)
        return missing

    def _prepare(self) -> None:
        if self._source.manifest is None:
            return
        for name in ("", SHARDS, COMMITS):
            durable.make_folder(self._folder / name)
        remove_leftovers(self._folder)
        durable.publish(self._folder, CONFIG, self._source.config)

    def _count(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._progress(self._done, self._total)

    def _fetch(self, item: Item) -> None:
        """One file; one whose bytes differ from its checksum is fetched once more.

        Raises:
            RemoteError: they differ again, or the file cannot be fetched.
        """
        self._watch.advance(self.parts.length(item))
        for _ in range(2):
            patiently(
                lambda: self._download(item), f"{self._source.place}/{item.name}", self._watch
            )
            if self.parts.publish(item):
                self._finish_shard(item)
                return
            self._watch.advance(-item.num_bytes)
        raise RemoteError(
            f"{self._source.place}/{item.name} has other bytes than its checksum says, also when "
            "it is fetched again; push it there once more, or get it from elsewhere"
        )

    def _download(self, item: Item) -> None:
        part = self.parts.path(item)
        with writing(part):
            part.touch()
        if self.parts.length(item) < item.num_bytes:
            place, watch = self._source.place, self._watch
            _listed(
                lambda: place.download(item.name, part, item.num_bytes, watch), place, item.name
            )

    def _finish_shard(self, item: Item) -> None:
        """Write the commit of a shard that is there."""
        manifest = self._source.manifest
        if manifest is None:
            return
        number = int(item.name.rpartition("/")[2].partition(".")[0])
        data = manifest.shards[number].commit(manifest.config_id)
        durable.publish(self._folder, commit_name(number), data)
