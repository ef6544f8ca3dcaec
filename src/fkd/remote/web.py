"""A folder on a web server, which need not list what it has: the list of files is read first.

Python's own client is enough for this, so it needs no further package. It honors http_proxy,
https_proxy and no_proxy. A server that ignores ranges sends a file from its beginning, and so it is
taken; headers that only the first server may see do not follow a redirect to another host.
"""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fkd.errors import ConfigError, NotThere, RemoteError
from fkd.remote.addresses import without_secrets
from fkd.remote.attempts import Transient, Watch
from fkd.remote.parts import writing

_CHUNK = 1 << 18
_TIMEOUT = 60.0  # seconds without a byte
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MISSING = frozenset({404, 410})
_REFUSED = frozenset({401, 403, 407})
_PARTIAL, _BEYOND = 206, 416


class WebFolder:
    """A folder on a web server.

    Args:
        url: of the folder; user and password in it are sent as basic authentication.
        options: "headers", further headers of every request; nothing else.

    Raises:
        ConfigError: another option is given.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        unknown = set(options) - {"headers"}
        headers = options.get("headers", {})
        if unknown or not isinstance(headers, dict):
            raise ConfigError(
                f"storage_options: a web server takes headers={{NAME: VALUE, ...}} only, not "
                f"{', '.join(sorted(unknown)) or headers!r}"
            )
        self._url, self._headers = _split_password(url)
        self._headers |= {str(name): str(value) for name, value in headers.items()}
        self._opener = urllib.request.build_opener(_Redirects())

    def __str__(self) -> str:
        return without_secrets(self._url)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small file.

        Raises:
            NotThere: the server has no such file.
            RemoteError: the server refuses, or the file is longer than `limit`.
            Transient: the server does not answer, or sends less than it promised.
        """
        with self._request(name, 0) as response, _reading():
            data = response.read(limit + 1)
            promised = response.headers.get("Content-Length")
        if len(data) > limit:
            raise RemoteError(f"{self}/{name} has more than {limit:,} bytes, which are allowed")
        if promised is not None and promised.isdecimal() and int(promised) != len(data):
            raise Transient(f"the server sends {len(data):,} of {promised} bytes")
        return bytes(data)

    def download(self, name: str, part: Path, num_bytes: int, watch: Watch) -> None:
        """Continue a part up to its length; errors as for `read`.

        Args:
            name: of the file.
            part: what was fetched so far, shorter than the file.
            num_bytes: of the file.
            watch: counts bytes.
        """
        done = part.stat().st_size if part.exists() else 0
        with self._request(name, done) as response:
            if done and not _continues(response, done):
                watch.advance(-done)
                done = 0
            with writing(part), open(part, "ab" if done else "wb") as file:
                while done < num_bytes:
                    with _reading():
                        data = response.read1(min(_CHUNK, num_bytes - done))
                    if not data:
                        raise Transient(f"the server ends after {done:,} of {num_bytes:,} bytes")
                    file.write(data)
                    done += len(data)
                    watch.advance(len(data))

    @contextmanager
    def _request(self, name: str, start: int) -> Iterator[http.client.HTTPResponse]:
        request = urllib.request.Request(f"{self._url}/{quote(name)}")
        for header, value in self._headers.items():
            request.add_unredirected_header(header, value)
        if start:
            request.add_header("Range", f"bytes={start}-")
        with _reading():
            try:
                response = self._opener.open(request, timeout=_TIMEOUT)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == _BEYOND and start:
                    raise Transient("the server has a shorter file") from None
                raise self._in_words(error.code, name) from None
        with response:
            yield response

    def _in_words(self, status: int, name: str) -> Exception:
        place = f"{self}/{name}"
        if status in _AGAIN:
            return Transient(f"the server answers with status {status}")
        if status in _MISSING:
            return NotThere(f"{place} is not there (status {status}); correct the address")
        if status in _REFUSED:
            return RemoteError(
                f"{place}: the server refuses (status {status}); give an address with the "
                "right to read it, or headers (--storage_options)"
            )
        return RemoteError(f"{place}: the server answers with status {status}")


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether a response is the rest of a file that was asked for, and not all of it."""
    given = response.headers.get("Content-Range", "")
    return response.status == _PARTIAL and given.startswith(f"bytes {start}-")


@contextmanager
def _reading() -> Iterator[None]:
    """Around everything that waits for the server."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        reason = error.reason
        raise Transient(f"the server does not answer ({_short(reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Transient(f"the connection breaks ({_short(error)})") from error


def _short(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:100]


def _split_password(url: str) -> tuple[str, dict[str, str]]:
    """The address without user and password, and the header that carries them."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    bare = urlunsplit((parts.scheme, host, path, "", ""))
    if not at:
        return bare, {}
    value = base64.b64encode(unquote(login).encode()).decode("ascii")
    return bare, {"Authorization": f"Basic {value}"}


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; what was added for one host only is sent again to that host alone."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """The next request, or None."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if following is not None and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            for name, value in req.unredirected_hdrs.items():
                if name not in ("Host", "User-agent", "Connection"):
                    following.add_unredirected_header(name, value)
        return following
