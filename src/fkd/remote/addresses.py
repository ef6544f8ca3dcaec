"""What a user means by the address of a store or a run elsewhere.

s3://bucket/labels                        any protocol of fsspec: gs://, abfs://, sftp://, ...
https://host/labels                       a web server, which gives and takes nothing
hf://datasets/org/name@revision/folder    a repository of the hub; hf://org/name is one of a run
org/name                                  the same, where no folder org is here
/mnt/share/labels                         a folder
"""

import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit, urlunsplit

from fkd.errors import ConfigError
from fkd.store.hub import HubAddress, parse_hub_address
from fkd.userfiles import home_path, is_hub_address

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_WEB = ("http", "https")
_HUB_SITES = ("huggingface.co", "www.huggingface.co", "hf.co")
_SCHEMES = frozenset({*_WEB, "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "sftp", "hf"})


@dataclass(frozen=True)
class Address:
    """Where a store or a run is, or is to be.

    Attributes:
        kind: how it is reached.
        url: without a slash at its end; of a folder, its path.
        hub: the repository, where it is one of the hub; its `kind` is None if the user left it out.
    """

    kind: Literal["web", "storage", "folder", "hub"]
    url: str
    hub: HubAddress | None = None

    def __str__(self) -> str:
        """As messages show it: without a password."""
        return without_secrets(self.url)


def parse_address(text: str, name: str = "url") -> Address:
    """The address that a user has written.

    Args:
        text: as above.
        name: the argument, for messages.

    Raises:
        ConfigError: it is none.
    """
    if not text.strip():
        raise ConfigError(f"{name} is empty; give an address such as s3://bucket/labels")
    if is_hub_address(text):
        return Address("hub", text, parse_hub_address(text, name))
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _without_scheme(text, name)
    kind = scheme[1].lower()
    parts = _split(text, name)
    if "::" in text:  # fsspec would take it for one file system inside another
        raise ConfigError(f"{name}: {without_secrets(text)} has '::' in it; give one address")
    if kind in _WEB and (parts.query or parts.fragment or not parts.netloc):
        raise ConfigError(
            f"{name}: {without_secrets(text)} is no address of a folder; names of files are put "
            "behind it, so it has a host and neither ? nor #"
        )
    if not text[scheme.end() :].strip("/") and kind != "memory":
        raise ConfigError(f"{name}: {text} names no place; give one such as {kind}://bucket/labels")
    if kind in _WEB and parts.hostname in _HUB_SITES and "/resolve/" not in parts.path:
        raise ConfigError(
            f"{name}: {without_secrets(text)} is a page of the hub; write {_on_hub(parts.path)}"
        )
    url = f"{kind}{text[len(scheme[1]) :]}".rstrip("/")
    return Address("web" if kind in _WEB else "storage", url)


def _split(text: str, name: str) -> SplitResult:
    """The parts of an address.

    Raises:
        ConfigError: its host or port is impossible.
    """
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        shown = text.rpartition("@")[2]  # no password of it
        raise ConfigError(f"{name}: {shown} is no address ({error}); correct it") from None
    return parts


def _without_scheme(text: str, name: str) -> Address:
    """A folder, or a repository of the hub.

    Raises:
        ConfigError: it may be either, or an address with an error in its beginning.
    """
    first, _, rest = text.partition("/")
    is_folder = not first or first.startswith((".", "~")) or os.path.lexists(text)
    bare = text.rstrip("/")
    if is_folder or (os.name == "nt" and re.match(r"[A-Za-z]:", text)):
        return Address("folder", str(home_path(text).absolute()))
    as_folder = f"./{text} for a folder"
    if first.lower() in _HUB_SITES:
        raise ConfigError(f"{name}: {text} is a page of the hub; write {_on_hub(rest)}")
    is_here = os.path.isdir(first)
    if ":" in first or (first.lower() in _SCHEMES and not is_here):
        raise ConfigError(
            f"{name}: {text} is no address; write SCHEME://PLACE, such as s3://bucket/labels, or "
            f"{as_folder}"
        )
    kind = first in ("datasets", "models") and _REPOSITORY.fullmatch(rest.rstrip("/"))
    if (kind or _REPOSITORY.fullmatch(bare)) and (kind or is_here):
        raise ConfigError(
            f"{name}: {text} may be a folder or a repository of the hub; write {as_folder}, or "
            f"{_on_hub(bare)} for the hub"
        )
    if _REPOSITORY.fullmatch(bare):
        return Address("hub", bare, parse_hub_address(bare, name))
    return Address("folder", str(home_path(text).absolute()))


def _on_hub(path: str) -> str:
    """A path of the hub's pages as an address, that of a data set where the path is of neither."""
    names = path.strip("/").split("/")
    kind = names.pop(0) if names[0] in ("datasets", "models") else ""
    repository = "/".join(names[:2] if len(names) > 1 else ("ORG", "NAME"))
    if kind:
        return f"hf://{kind}/{repository}"
    return f"hf://datasets/{repository} (of a store) or hf://{repository} (of a run)"


def without_secrets(url: str) -> str:
    """The address without a password in it, and without what follows a `?`."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    shown = f"***@{host}" if "@" in parts.netloc and parts.password else parts.netloc
    return urlunsplit((parts.scheme, shown, parts.path, "", "")) if parts.netloc else url
