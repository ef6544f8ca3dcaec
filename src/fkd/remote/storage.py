"""A folder in a bucket, or anywhere else that fsspec reaches.

Credentials are found as fsspec's packages find them: environment, their files of settings, roles of
a machine. Whether a file that is there has the right bytes is told by the MD5 sum that a bucket
keeps, where it keeps one; a folder on a disk, or one over SFTP, is read back.
"""

import base64
import errno
import hashlib
import importlib
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fkd.errors import ConfigError, NotThere, RemoteError, reason_of
from fkd.remote.addresses import Address
from fkd.remote.attempts import Transient, Watch
from fkd.remote.contents import Item
from fkd.remote.parts import writing
from fkd.userfiles import os_reason

_CHUNK = 8 << 20  # bytes of one request; S3 wants few large ones
_S3_PART = 50 << 20  # of an upload in several parts
_S3 = frozenset({"s3", "s3a"})
# An object appears once all of it is there; elsewhere a file grows, and gets its name at the end.
_OBJECTS = _S3 | {"gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"}
_EXTRA = {"s3": "remote", "s3a": "remote"}
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "oci": "ocifs",
    "oss": "ossfs",
}
_REFUSALS = ("accessdenied", "forbidden", "access denied", "invalidaccesskey", "signaturedoesnot")
_NO_LOGIN = ("NoCredentialsError", "DefaultCredentialsError", "CredentialRetrievalError")
_BUSY = ("slowdown", "internalerror", "serviceunavailable", "requesttimeout", "toomanyrequests")
_NO_BUCKET = "cannot be written, since there is no such bucket; make it, or correct the address"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = re.compile(r"\.tmp\.(?P<leaf>.+)\.[0-9a-f]{8}")


class StorageFolder:
    """A folder that fsspec reaches.

    Args:
        address: of it.
        options: of the file system, as fsspec takes them.

    Raises:
        ConfigError: a package is missing, or an option is unknown.
    """

    def __init__(self, address: Address, options: Mapping[str, Any]) -> None:
        is_folder = address.kind == "folder"
        if is_folder and options:
            raise ConfigError("storage_options: they mean nothing to a folder; leave them out")
        self._shown = str(address)
        self._protocol = "file" if is_folder else address.url.partition("://")[0].lower()
        # The path of a folder is not put into a URL, where "::" would mean something.
        url = "file://" if is_folder else address.url
        self._system, root = _open(url, self._protocol, options)
        self._root = address.url.rstrip("/") if is_folder else root
        self._found: dict[str, dict[str, Any]] | None = None

    def __str__(self) -> str:
        return self._shown

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small file.

        Raises:
            NotThere: there is no such file.
            RemoteError: it may not be read, or is longer than `limit`.
            Transient: it cannot be read at the moment.
        """
        with self._asking(name):
            data: bytes = self._system.cat_file(self._path(name), start=0, end=limit + 1)
        if len(data) > limit:
            raise RemoteError(f"{self}/{name} has more than {limit:,} bytes, which are allowed")
        return data

    def download(self, name: str, part: Path, num_bytes: int, watch: Watch) -> None:
        """Continue a part up to its length; errors as for `read`."""
        done = part.stat().st_size if part.exists() else 0
        with writing(part), open(part, "ab") as file:
            while done < num_bytes:
                end = min(num_bytes, done + _CHUNK)
                with self._asking(name):
                    data = self._system.cat_file(self._path(name), start=done, end=end)
                if not data or len(data) > end - done:
                    raise Transient(f"it ends after {done:,} of {num_bytes:,} bytes")
                file.write(data)
                done += len(data)
                watch.advance(len(data))

    def upload(self, source: Path, item: Item) -> None:
        """Send a file, which appears there when all of it is.

        Raises:
            RemoteError: it may not be written, or there is no space.
            Transient: it cannot be sent at the moment.
        """
        path = self._path(item.name)
        options = {"chunksize": _S3_PART} if self._protocol in _S3 else {}
        with self._asking(item.name, writes=True):
            if self._protocol in _OBJECTS:
                self._system.put_file(str(source), path, **options)
            else:
                self._put_and_rename(path, lambda place: self._system.put_file(str(source), place))

    def write(self, name: str, data: bytes) -> None:
        """The same for bytes."""
        path = self._path(name)
        with self._asking(name, writes=True):
            if self._protocol in _OBJECTS:
                self._system.pipe_file(path, data)
            else:
                self._put_and_rename(path, lambda place: self._system.pipe_file(place, data))

    def _put_and_rename(self, path: str, put: Callable[[str], Any]) -> None:
        folder, _, leaf = path.rpartition("/")
        self._system.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.tmp.{leaf}.{uuid.uuid4().hex[:8]}"
        try:
            put(temporary)
            self._system.mv(temporary, path)
        except BaseException:
            with suppress(Exception):
                self._system.rm_file(temporary)
            raise

    def top_names(self) -> set[str]:
        """Names of the files and folders that are there, without those inside of folders.

        Raises:
            RemoteError: it may not be looked at.
            Transient: it cannot be looked at at the moment.
        """
        return {name.partition("/")[0] for name in self._infos()}

    def leftovers(self, names: Collection[str]) -> list[str]:
        """What earlier pushes of these files have left unfinished, by name.

        It lists what is there, once for all threads.

        Raises:
            RemoteError: it may not be looked at.
            Transient: it cannot be looked at at the moment.
        """
        found = []
        for name in self._infos():
            folder, slash, leaf = name.rpartition("/")
            temporary = _TEMPORARY.fullmatch(leaf)
            if temporary is not None and f"{folder}{slash}{temporary['leaf']}" in names:
                found.append(name)
        return found

    def remove(self, name: str) -> None:
        """Remove a file, if that is possible."""
        with suppress(Exception):
            self._system.rm_file(self._path(name))

    def has(self, item: Item, source: Path | bytes) -> bool | None:
        """Whether a file is there with these bytes; None where only its length is known.

        Args:
            item: the file.
            source: its bytes, or the file here that has them.

        Raises:
            RemoteError: it may not be looked at.
            Transient: it cannot be looked at at the moment.
        """
        info = self._infos().get(item.name)
        if info is None or info.get("size") != item.num_bytes:
            return False
        md5 = _recorded_md5(info, self._protocol)
        if md5 is not None:
            is_same = md5 == _md5_like(md5, source)
            # Of an encrypted object, or one sent in other parts, the sum is another one.
            return is_same or (None if self._protocol in _S3 else False)
        if self._protocol in _OBJECTS:
            return None
        return self._sha256(item) == item.sha256

    def look_again(self, name: str) -> None:
        """Look anew at one file."""
        found = self._infos()
        with self._asking(name):
            self._system.invalidate_cache()
            found[name] = self._system.info(self._path(name))

    def _infos(self) -> dict[str, dict[str, Any]]:
        """What is known of each file that is there, by name."""
        if self._found is None:
            with self._asking(""):
                self._system.invalidate_cache()
                try:
                    listed = self._system.find(self._root, detail=True)
                except FileNotFoundError:
                    listed = {}
            prefix = f"{self._root}/"
            self._found = {
                path.removeprefix(prefix): info
                for path, info in listed.items()
                if path.startswith(prefix)
            }
        return self._found

    def _sha256(self, item: Item) -> str:
        digest = hashlib.sha256()
        for start in range(0, item.num_bytes, _CHUNK):
            with self._asking(item.name):
                digest.update(
                    self._system.cat_file(self._path(item.name), start=start, end=start + _CHUNK)
                )
        return digest.hexdigest()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _asking(self, name: str, *, writes: bool = False) -> Iterator[None]:
        """Turn what fsspec's packages raise into our errors; each has kinds of its own."""
        place = f"{self}/{name}" if name else str(self)
        try:
            yield
        except (RemoteError, Transient):
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            if not writes:
                raise NotThere(f"{place} is not there; correct the address") from error
            if self._protocol in _OBJECTS:
                raise NotThere(f"{place} {_NO_BUCKET}") from error
            raise RemoteError(
                f"{place} cannot be written: {os_reason(error)}; give another place"
            ) from error
        except Exception as error:
            raise _in_words(error, place) from error


def _open(url: str, protocol: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of an address, and the path of its folder there."""
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        raise ConfigError(
            'object storage needs fsspec; install it with pip install "fkd[remote]"'
        ) from error
    try:
        system, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(_missing(protocol)) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"url: {protocol}:// cannot be opened: {reason_of(error)}; correct the address or "
            "--storage_options"
        ) from error
    return system, root.rstrip("/")


def _missing(protocol: str) -> str:
    package = _PACKAGES.get(protocol, f"the package of fsspec for {protocol}")
    extra = _EXTRA.get(protocol)
    if extra:
        return f'{protocol}:// needs {package}; install it with pip install "fkd[{extra}]"'
    return f"{protocol}:// needs {package}; install it with pip install {package}"


def _in_words(error: Exception, place: str) -> Exception:
    """What a package of fsspec says, as one of our errors."""
    kind, text = type(error).__name__, str(error).lower()
    if isinstance(error, TypeError) and "unexpected keyword" in text:
        return ConfigError(f"storage_options: {place} cannot be opened: {reason_of(error)}")
    if kind in _NO_LOGIN:
        return RemoteError(
            f"{place}: there are no credentials; give them as its package finds them "
            "(for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws), or "
            "--storage_options anon=true"
        )
    if isinstance(error, PermissionError) or any(word in text for word in _REFUSALS):
        return RemoteError(
            f"{place}: access is refused; use credentials with the right to it, or correct the "
            "address"
        )
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return RemoteError(f"{place}: there is no space left; free some and run it again")
    if "nosuchbucket" in text.replace(" ", "") or "bucket does not exist" in text:
        return NotThere(f"{place}: there is no such bucket; make it, or correct the address")
    if _is_transient(error, kind, text):
        return Transient(f"it does not answer ({reason_of(error, 80)})")
    if isinstance(error, OSError) and error.strerror:
        return RemoteError(f"{place}: {os_reason(error)}; correct that, or give another place")
    return RemoteError(f"{place}: {reason_of(error)}")


def _is_transient(error: Exception, kind: str, text: str) -> bool:
    network = ("timeout", "connect", "disconnected", "payload", "incompleteread", "httpclient")
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or any(word in kind.lower() for word in network)
        or any(word in text.replace(" ", "") for word in _BUSY)
        or (isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EIO, errno.EAGAIN))
    )


def _recorded_md5(info: Mapping[str, Any], protocol: str) -> str | None:
    """The MD5 sum that a bucket keeps of an object, hexadecimal; on S3 with -N for N parts."""
    if protocol in _S3:
        tag = str(info.get("ETag", "")).strip('"')
        return tag or None
    settings = info.get("content_settings")
    encoded = info.get("md5Hash") or (settings and settings.get("content_md5"))
    if encoded is None:
        return None
    with suppress(ValueError, TypeError):
        raw = base64.b64decode(encoded) if isinstance(encoded, str) else bytes(encoded)
        return raw.hex()
    return None


def _md5_like(recorded: str, source: Path | bytes) -> str:
    """The same sum of bytes that are here, made as a recorded one was."""
    num_parts = int(recorded.partition("-")[2]) if recorded.partition("-")[2].isdigit() else 0
    size = _S3_PART if num_parts else 1 << 62
    sums = [_md5(chunks) for chunks in _pieces(source, size)]
    if not num_parts:
        return sums[0].hex() if sums else _md5([b""]).hex()
    joined = hashlib.md5(b"".join(sums), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(sums)}"


def _md5(chunks: Any) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _pieces(source: Path | bytes, size: int) -> Iterator[Iterator[bytes]]:
    """Pieces of this many bytes, each as chunks."""
    if isinstance(source, bytes):
        for start in range(0, len(source), size):
            yield iter([source[start : start + size]])
        return
    total = source.stat().st_size
    with open(source, "rb") as file:
        for start in range(0, total, size):
            yield _chunks(file, min(size, total - start))


def _chunks(file: Any, num_bytes: int) -> Iterator[bytes]:
    while num_bytes and (data := file.read(min(1 << 20, num_bytes))):
        num_bytes -= len(data)
        yield data
