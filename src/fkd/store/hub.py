"""Stores of the Hugging Face hub, opened by their address: a snapshot in the hub's own cache.

    hf://datasets/org/name                the newest commit
    hf://datasets/org/name@v1/folder      a branch, tag or commit, and a folder in the repository

The bytes of a snapshot are compared with the store's checksums when it is opened for the first
time; a note in the hub's cache of assets says that it was done. Without a network, what was opened
before opens again.
"""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fkd.errors import ConfigError, DamagedStore, NotThere, RemoteError, reason_of
from fkd.store import files
from fkd.store.canonical import sha256
from fkd.store.manifest import COMMITS, CONFIG, MANIFEST, SHARDS, read_finished
from fkd.userfiles import is_hub_address

HubKind = Literal["dataset", "model"]

# `Path("hf://datasets/a/b")` has one slash after the colon.
_ADDRESS = re.compile(r"hf:/{1,2}(?P<rest>.*)", re.DOTALL)
_REPOSITORY = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>refs/(?:pr/\d+|convert/\w+)|(?!refs(?:/|$))[^/@\s]+))?(/(?P<folder>.+))?"
)
_PART = re.compile(r"[\w.+-][\w .+-]*")
_FORBIDDEN, _MISSING, _UNKNOWN = 403, 404, 401
_CHUNK = 1 << 20
_OPENS = "snapshot_download"


@dataclass(frozen=True)
class HubAddress:
    """A repository of the hub, or a folder in it.

    Attributes:
        repository: "org/name".
        kind: of the repository; None where the address does not say.
        revision: branch, tag or commit; None for the default branch.
        folder: in the repository; empty for all of it.
    """

    repository: str
    kind: HubKind | None = None
    revision: str | None = None
    folder: str = ""

    def path(self, name: str) -> str:
        """A file of the store as the repository names it."""
        return f"{self.folder}/{name}" if self.folder else name


def parse_hub_address(text: str, name: str = "store") -> HubAddress:
    """The repository that an address, or "org/name", means.

    Example:
        >>> parse_hub_address("hf://datasets/ann/pets@v1").revision
        'v1'

    Raises:
        ConfigError: it is no address of a repository.
    """
    address = _ADDRESS.match(text)
    rest = (address["rest"] if address else text).strip("/")
    kind: HubKind | None = "model" if address else None
    for prefix, meant in (("datasets/", "dataset"), ("models/", "model")):
        if address and rest.startswith(prefix):
            rest, kind = rest.removeprefix(prefix), meant  # type: ignore[assignment]
    found = _REPOSITORY.fullmatch(rest)
    folder = (found["folder"] or "").strip("/") if found else ""
    parts = folder.split("/") if folder else []
    if found is None or any(not _PART.fullmatch(p) or p in (".", "..") for p in parts):
        raise ConfigError(
            f"{name}: {text} is no repository of the hub; write hf://datasets/ORG/NAME, and "
            "@REVISION or /FOLDER behind it if need be"
        )
    return HubAddress(found["id"], kind, found["revision"], folder)


def locate(path: str | os.PathLike[str]) -> Path:
    """The folder of a store that a user names: as it is, or the snapshot of an address of the hub.

    Raises:
        ConfigError: the address is malformed, or huggingface_hub is missing.
        RemoteError: the hub refuses or does not answer, and the store is not in its cache.
        DamagedStore: a downloaded file differs from its checksum, also when it is fetched again.
        FormatError: there can be no such folder.
    """
    if not is_hub_address(path):
        return files.absolute(path)
    address = parse_hub_address(os.fspath(path))
    if address.kind != "dataset":
        raise ConfigError(
            f"store: {os.fspath(path)} is the repository of a model; a store is in one of a data "
            f"set: hf://datasets/{address.repository}"
        )
    return _snapshot(address)


def _snapshot(address: HubAddress) -> Path:
    patterns = [address.path(n) for n in (MANIFEST, CONFIG, f"{SHARDS}/*", f"{COMMITS}/*")]

    def fetch(only: list[str], again: bool) -> Path:
        root = call_hub(
            address,
            _OPENS,
            address.repository,
            repo_type="dataset",
            revision=address.revision,
            allow_patterns=only,
            force_download=again,
        )
        return Path(root) / address.folder if address.folder else Path(root)

    folder = fetch(patterns, False)
    if not files.is_folder(folder) or not files.exists(folder, MANIFEST):
        raise RemoteError(
            f"{describe(address)} holds no finished label store: it has no {MANIFEST}; name the "
            "folder of the store in the repository, or another --revision"
        )
    _check_once(folder, address, fetch)
    return folder


def _check_once(
    folder: Path, address: HubAddress, fetch: Callable[[list[str], bool], Path]
) -> None:
    """Compare all files with their checksums, the first time; fetch those that differ again."""
    manifest, _ = read_finished(folder)
    note = _note_of(manifest.root_hash, folder)
    if note.exists():
        return
    for entry in manifest.shards:
        if file_sha256(folder / entry.file) == entry.sha256:
            continue
        fetch([address.path(entry.file)], True)
        if file_sha256(folder / entry.file) != entry.sha256:
            raise DamagedStore(
                f"{entry.file} of {describe(address)} differs from its checksum, also when it is "
                "fetched again; ask its owner to push the store once more"
            )
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _note_of(root_hash: str, folder: Path) -> Path:
    from huggingface_hub import cached_assets_path, constants

    place = Path(constants.HF_ASSETS_CACHE)
    notes = cached_assets_path("fkd", namespace="stores", subfolder="checked", assets_dir=place)
    return notes / f"{root_hash[:32]}-{sha256(os.fsencode(folder.resolve()))[:32]}"


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file, hexadecimal; None where there is none."""
    import hashlib

    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def describe(address: HubAddress) -> str:
    """A repository, or a folder in it, as messages name it."""
    kind = "data set" if address.kind == "dataset" else "model"
    at = f" at {address.revision}" if address.revision else ""
    folder = f"folder {address.folder} of " if address.folder else ""
    return f"{folder}{kind} {address.repository}{at}"


def call_hub(address: HubAddress, function: str, *args: Any, **options: Any) -> Any:
    """Call a method of huggingface_hub's HfApi, without its progress bars.

    Raises:
        ConfigError: huggingface_hub is not installed.
        RemoteError: the hub refuses or does not answer; says what to do, never the token.
        NotThere: what the call is about is not in the repository.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors

        utils: Any = importlib.import_module("huggingface_hub.utils")
    except ImportError as error:
        raise ConfigError(
            'the hub needs huggingface_hub; install it with pip install "fkd[hub]"'
        ) from error
    shown = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        return getattr(huggingface_hub.HfApi(), function)(*args, **options)
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError, RuntimeError) as error:
        raise _in_words(error, address, function) from error
    except Exception as error:  # the client's own HTTP library, which changes with its version
        if "http" not in type(error).__module__ and "requests" not in type(error).__module__:
            raise
        raise _in_words(error, address, function) from error
    finally:
        if not shown:
            utils.enable_progress_bars()


def _in_words(error: BaseException, address: HubAddress, function: str) -> RemoteError:
    """One sentence with the way out."""
    from huggingface_hub import errors

    place = describe(address)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, errors.GatedRepoError):
            return RemoteError(
                f"{place} is gated: ask for access on its page, and log in (`hf auth login`)"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return NotThere(f"{place} has no such revision; give another --revision")
        if isinstance(cause, errors.RepositoryNotFoundError):
            return NotThere(
                f"{place} does not exist, or you may not see it: correct the name, or log in with "
                "an account that may (`hf auth login`)"
            )
        if isinstance(cause, errors.EntryNotFoundError) and not isinstance(
            cause, FileNotFoundError
        ):
            return NotThere(f"{place} has no such file")
    status = next((s for c in causes if (s := _status(c)) is not None), None)
    if status == _UNKNOWN:
        return RemoteError(
            f"{place}: the hub does not know you; log in with `hf auth login`, or set HF_TOKEN"
        )
    if status == _FORBIDDEN:
        return RemoteError(
            f"{place}: your token may not do this; use one with the right to write there "
            "(`hf auth login`), or another organization"
        )
    if status is not None:
        return RemoteError(f"{place}: the hub answers with status {status}; try again later")
    if isinstance(error, FileNotFoundError | ConnectionError) or any(
        _is_network(c) for c in causes
    ):
        silence = f"{place}: the hub ({_endpoint()}) does not answer"
        if function == _OPENS:
            return RemoteError(
                f"{silence}, and it is not in the hub's cache; check the network, or open it once "
                "where there is one"
            )
        return RemoteError(f"{silence}; check the network, and run the same command again")
    return RemoteError(f"{place}: {reason_of(error)}")


def _causes(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_network(error: BaseException) -> bool:
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in (
        *("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "WriteError"),
        *("RemoteProtocolError", "ProxyError", "ConnectionError", "SSLError"),
    )


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
