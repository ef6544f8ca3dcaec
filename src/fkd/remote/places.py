"""The places that stores and runs are fetched from, by their address."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from fkd.errors import ConfigError
from fkd.remote.addresses import Address
from fkd.remote.attempts import Watch
from fkd.remote.hub import places_of
from fkd.remote.storage import StorageFolder
from fkd.remote.web import WebFolder


class Place(Protocol):
    """A folder elsewhere."""

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small file; raises NotThere, RemoteError or Transient."""
        ...

    def download(self, name: str, part: Path, num_bytes: int, watch: Watch) -> None:
        """Continue a part up to its length."""
        ...


def open_places(
    address: Address, options: Mapping[str, Any], revision: str | None = None
) -> Sequence[Place]:
    """What an address means: one place, or two of the hub where it does not say of which kind.

    Args:
        address: of it.
        options: of the file system, or of the web server.
        revision: of a repository of the hub.

    Raises:
        ConfigError: a package is missing, or an option means nothing there.
    """
    if address.hub is not None:
        if options:
            raise ConfigError("storage_options: they mean nothing to the hub; leave them out")
        return places_of(address.hub, revision)
    if revision is not None:
        raise ConfigError(f"revision: {address} is no repository of the hub; leave it out")
    if address.kind == "web":
        return [WebFolder(address.url, options)]
    return [StorageFolder(address, options)]


def read_options(pairs: Sequence[str], endpoint_url: str | None = None) -> dict[str, Any]:
    """Options of a file system from words such as "anon=true"; values are read as YAML.

    Example:
        >>> read_options(["anon=true", "client_kwargs={region_name: eu-west-1}"])
        {'anon': True, 'client_kwargs': {'region_name': 'eu-west-1'}}

    Raises:
        ConfigError: a word is no NAME=VALUE.
    """
    options: dict[str, Any] = {} if endpoint_url is None else {"endpoint_url": endpoint_url}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"storage_options: {name!r} is no NAME=VALUE, such as anon=true")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"storage_options: the value of {name} is no YAML") from error
    return options
