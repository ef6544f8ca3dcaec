"""`push`: a finished store or run to another place.

What is there already with the right bytes is not sent again, and the list of files is sent last: a
reader sees all of it or nothing. A repository of the hub gets one commit, and a card.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError, DamagedStore, NotThere, RemoteError, RunError, StoreMismatch
from fkd.remote.addresses import Address
from fkd.remote.attempts import Watch, for_each, patiently
from fkd.remote.cards import make_card
from fkd.remote.contents import (
    FILES,
    FINAL_WEIGHTS,
    RUN_CONFIG,
    Contents,
    Item,
    parse_files,
    parse_store,
    read_folder,
)
from fkd.remote.hub import README, HubFolder
from fkd.remote.parts import is_there, is_within
from fkd.remote.places import Place
from fkd.remote.storage import StorageFolder
from fkd.store.manifest import CONFIG, MANIFEST, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES
from fkd.store.strays import is_companion, is_temporary

_MAX_FILES_BYTES = 1 << 24

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pushed:
    """What a place has after a push.

    Attributes:
        place: as messages name it; of the hub, the URL of the commit.
        kind: "store" or "run".
        root_hash: of the store; of a run, SHA-256 of the list of its files.
        num_files: of it.
        num_bytes: of all of them.
        num_bytes_sent: of those that were sent now; None where only the hub's client knows.
    """

    place: str
    kind: str
    root_hash: str
    num_files: int
    num_bytes: int
    num_bytes_sent: int | None


def push(
    source: Path,
    address: Address,
    *,
    checkpoints: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    replace: bool = False,
    options: Mapping[str, Any] | None = None,
    num_threads: int = 8,
    progress: Progress = lambda done, total: None,
) -> Pushed:
    """Send a finished store or run; to the hub with a card.

    Args:
        source: its folder.
        address: where to.
        checkpoints: whether those of a run are sent, too.
        private: whether a new repository of the hub can be seen by its owner only; None for what
            its owner has chosen for new ones.
        revision: branch of a repository of the hub.
        replace: whether it may take the place of another store or run in a repository of the hub,
            whose earlier commits keep that.
        options: of the file system, as fsspec takes them.
        num_threads: files that are sent at a time.
        progress: called with the bytes that are there, and all bytes.

    Raises:
        ConfigError: an option is impossible, a package is missing, or something else is there.
        StoreMismatch: another store or run is there.
        DamagedStore: a file of the store here differs from its checksum.
        MissingLabel: the store is not finished.
        RunError: the run is not finished.
        RemoteError: the place refuses or does not answer, or has other bytes than were sent.
    """
    of_hub = {"private": private is not None, "revision": revision is not None, "replace": replace}
    vain = [name for name, is_given in of_hub.items() if is_given and address.hub is None]
    if vain:
        raise ConfigError(f"{vain[0]}: {address} is no repository of the hub; leave it out")
    if address.kind == "web":
        raise ConfigError(
            f"url: {address} is a web server, which takes no files; push to the bucket or folder "
            "that it serves"
        )
    contents = read_folder(source, checkpoints=checkpoints)
    if address.hub is not None:
        if options:
            raise ConfigError("storage_options: they mean nothing to the hub; leave them out")
        kind = address.hub.kind or ("dataset" if contents.kind == "store" else "model")
        place = HubFolder(address.hub, kind, revision)
        return _push_to_hub(source, contents, place, private, replace, progress)
    storage = StorageFolder(address, options or {})
    if address.kind == "folder" and is_within(Path(address.url), source):
        raise ConfigError(f"url: {address} is the folder itself, or in it; give another place")
    sent = _Sending(source, contents, storage, progress).run(num_threads)
    total = len(contents.items) + 1
    return Pushed(str(storage), contents.kind, contents.root_hash, total, contents.num_bytes, sent)


class _Sending:
    """Sends files to a folder that fsspec reaches."""

    def __init__(
        self, source: Path, contents: Contents, place: StorageFolder, progress: Progress
    ) -> None:
        self._source = source
        self._contents = contents
        self._place = place
        self._report = progress
        self._watch = Watch(self._count)
        self._done = self._sent = 0

    def run(self, num_threads: int) -> int:
        """Send what is missing; how many bytes that were."""
        _require_same(self._contents, self._place, self._source)
        self._require_no_others()
        names = {item.name for item in self._contents.items} | {self._contents.list_name}
        leftovers = patiently(lambda: self._place.leftovers(names), str(self._place), self._watch)
        first = [item for item in self._contents.items if item.name != FINAL_WEIGHTS]
        for_each(first, self._send, self._watch, num_threads)
        for item in self._contents.items[len(first) :]:
            self._send(item)
        self._send_list()
        for name in leftovers:
            self._place.remove(name)
        return self._sent

    def _require_no_others(self) -> None:
        """Refuse a place that holds nothing of a store or a run, but something else.

        Raises:
            ConfigError: names it.
        """
        top = patiently(self._place.top_names, str(self._place), self._watch)
        ours = {item.name.partition("/")[0] for item in self._contents.items}
        others = {name for name in top if not is_companion(name) and not is_temporary(name)}
        if others and not others & (ours | {self._contents.list_name}):
            raise ConfigError(
                f"url: {self._place} is not empty and holds no {self._contents.kind} "
                f"({min(others)} is in it); give another place, such as {self._place}/NAME"
            )

    def _count(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._report(self._done, self._contents.num_bytes)

    def _send(self, item: Item) -> None:
        path = self._source / item.name
        _require_sound(self._source, item, self._contents)
        if self._is_there(item, path) is True:
            self._watch.advance(item.num_bytes)
            return
        for _ in range(2):
            self._patiently(lambda: self._place.upload(path, item), item)
            self._patiently(lambda: self._place.look_again(item.name), item)
            if self._is_there(item, path) is not False:
                self._sent += item.num_bytes
                self._watch.advance(item.num_bytes)
                return
        raise RemoteError(
            f"{self._place}/{item.name} has other bytes than were sent, also when it was sent "
            "again; look at what is between here and there"
        )

    def _send_list(self) -> None:
        """The list of all files; it says that they are complete."""
        name, data = self._contents.list_name, self._contents.list_bytes
        item = Item(name, len(data), "")
        try:
            there = self._patiently(lambda: self._place.read(name, max(len(data), 1)), item)
        except (NotThere, RemoteError):
            there = b""
        if there != data:
            self._patiently(lambda: self._place.write(name, data), item)
            if self._patiently(lambda: self._place.read(name, len(data)), item) != data:
                raise RemoteError(f"{self._place}/{name} has other bytes than were sent")
            self._sent += len(data)
        self._watch.advance(len(data))

    def _is_there(self, item: Item, path: Path) -> bool | None:
        there: bool | None = self._patiently(lambda: self._place.has(item, path), item)
        return there

    def _patiently(self, action: Callable[[], Any], item: Item) -> Any:
        return patiently(action, f"{self._place}/{item.name}", self._watch)


def _require_sound(folder: Path, item: Item, contents: Contents) -> None:
    """Refuse to send what differs from its checksum here."""
    if is_there(folder, item):
        return
    if contents.kind == "store":
        raise DamagedStore(
            f"{folder / item.name} is missing or differs from its checksum, so it is not sent; run "
            f"`fkd verify {folder}`"
        )
    raise RunError(f"{folder / item.name} was changed while it was sent; run it again")


def _require_same(contents: Contents, place: Place, source: Path) -> None:
    """Refuse a place that has another store or run, finished or not.

    Raises:
        StoreMismatch: names both root hashes.
    """
    found = _root_hash_at(place)
    if found is not None and found != (contents.kind, contents.root_hash):
        kind, root_hash = found
        what = f"another {kind}" if kind == contents.kind else f"a {kind}"
        raise StoreMismatch(
            f"{place} has {what}: its root hash is {root_hash}, that of {source} is "
            f"{contents.root_hash}; give another place"
        )
    if found is None:
        name = CONFIG if contents.kind == "store" else RUN_CONFIG
        config = _read(place, name, MAX_CONFIG_BYTES)
        if config is not None and config != (source / name).read_bytes():
            raise StoreMismatch(
                f"{place} has another {name}: a push of another {contents.kind} was begun there "
                "and not finished; give another place, or remove it"
            )


def _root_hash_at(place: Place) -> tuple[str, str] | None:
    """What is at a place, "store" or "run", and its root hash; None where there is neither."""
    data = _read(place, MANIFEST, MAX_MANIFEST_BYTES)
    if data is not None:
        return "store", parse_store(data, f"{place}/{MANIFEST}").root_hash
    data = _read(place, FILES, _MAX_FILES_BYTES)
    return None if data is None else ("run", parse_files(data, f"{place}/{FILES}").root_hash)


def _read(place: Place, name: str, limit: int) -> bytes | None:
    try:
        return patiently(lambda: place.read(name, limit), f"{place}/{name}", Watch())
    except NotThere:
        return None


def _push_to_hub(
    source: Path,
    contents: Contents,
    place: HubFolder,
    private: bool | None,
    replace: bool,
    progress: Progress,
) -> Pushed:
    if (place.address.kind == "dataset") != (contents.kind == "store"):
        wanted = "data set (hf://datasets/" if contents.kind == "store" else "model (hf://"
        raise ConfigError(
            f"url: a {contents.kind} goes to a repository of a {wanted}ORG/NAME); leave the "
            "kind out, or correct it"
        )
    for item in contents.items:
        _require_sound(source, item, contents)
    place.create(private)
    if not replace:
        _require_new(contents, place, source)
    card = _card(source, contents, place, replace)
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, contents.num_bytes)

    stale = place.stale(contents) if replace else []
    url = place.send(source, contents, card, stale, count)
    return Pushed(
        url, contents.kind, contents.root_hash, len(contents.items) + 1, contents.num_bytes, None
    )


def _require_new(contents: Contents, place: HubFolder, source: Path) -> None:
    try:
        _require_same(contents, place, source)
    except StoreMismatch as error:
        raise StoreMismatch(
            f"{str(error).partition('; give')[0]}; give another repository, or --replace: earlier "
            "commits keep what is there now"
        ) from error


def _card(source: Path, contents: Contents, place: HubFolder, replace: bool) -> bytes | None:
    """The README to send: that of the folder, else one of ours where the repository has none."""
    own = source / README
    if own.is_file():
        return own.read_bytes()
    if place.has_readme() and not replace:
        return None
    return make_card(source, contents, place.address).encode()
