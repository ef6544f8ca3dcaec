"""A store in the browser: a small server on this machine that makes each page when it is asked for.

Only the images of the page that is shown are read and decoded. The server listens on the loopback
address alone, reads and never writes, and answers only those who ask for it by that address: a web
page elsewhere cannot have its requests answered under another name (DNS rebinding).
"""

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args
from urllib.parse import parse_qs, urlencode, urlsplit

from fkd.checks import require_one_of
from fkd.errors import ConfigError, FKDError, escape_controls
from fkd.models.classes import display_names
from fkd.userfiles import os_reason
from fkd.viewing.browser import Browser, Selection
from fkd.viewing.filters import FilterConfig, Sort
from fkd.viewing.page import PageConfig, render_selection

LOOPBACK = "127.0.0.1"
_NAMES = (LOOPBACK, "localhost", "[::1]")  # under which a browser on this machine knows it
_PATIENCE = 0.3  # seconds that an answer waits for labels before it says how far they are read
_MOST_IMAGES = 200  # on a page
_NUMBERS = ("min_entropy", "max_entropy", "min_top_probability", "max_top_probability")
_CLASSES = ("class_name", "teacher_class")

Given = Mapping[str, str]
"""What a form holds, by the names of its fields."""


@dataclass(frozen=True)
class View:
    """What a request asks for.

    Attributes:
        filter: which images.
        sort: in which order.
        page: how much of each, and which page.
    """

    filter: FilterConfig
    sort: Sort
    page: PageConfig


class PageServer(ThreadingHTTPServer):
    """Serves the pages of one store.

    Args:
        browser: of the store.
        view: what is shown to a request that asks for nothing in particular.
        port: 0 for any that is free.

    Raises:
        ConfigError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, browser: Browser, view: View, port: int = 0) -> None:
        self.browser, self.view = browser, view
        self._rendering = threading.Lock()
        self._reader: threading.Thread | None = None
        self._failure: FKDError | None = None
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else "no such port"
            raise ConfigError(
                f"port: {port} cannot be used: {reason}; give another, or 0 for any that is free"
            ) from error

    @property
    def address(self) -> str:
        """Of the first page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that no longer waits for its page is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, query: str) -> tuple[int, str]:
        """Status and page of a request; errors become part of the page."""
        given = {name: values[-1] for name, values in parse_qs(query).items()}
        try:
            view = read_view(given, self.view, self._known_classes())
            progress = self._await_labels(view)
            with self._rendering:
                if progress is not None:
                    return HTTPStatus.OK, self._render(view, given, progress=progress)
                selection = self.browser.select(
                    view.filter,
                    view.sort,
                    seed=view.page.seed,
                    number=view.page.number,
                    size=view.page.num_images,
                )
                return HTTPStatus.OK, self._render(view, given, selection)
        except FKDError as error:
            with self._rendering:
                return HTTPStatus.BAD_REQUEST, self._render(self.view, given, error=str(error))

    def _await_labels(self, view: View) -> tuple[int, int] | None:
        """Read labels where the view needs them; how far that is, None when all are read."""
        if not self.browser.needs_reading(view.filter, view.sort):
            return None
        if self._reader is None or not self._reader.is_alive():
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        self._reader.join(_PATIENCE)
        if not self._reader.is_alive() and self._failure is None:
            return None
        return self.browser.num_read, len(self.browser.labeled)

    def _read(self) -> None:
        try:
            self.browser.statistics(lambda count: None)
        except FKDError as error:
            self._failure = error

    def _known_classes(self) -> dict[str, list[str]]:
        """Names of classes as a form offers them, by the fields that they are for."""
        return {
            "class_name": display_names(self.browser.true_classes.names),
            "teacher_class": display_names(self.browser.store.class_names),
        }

    def _render(
        self,
        view: View,
        given: Given,
        selection: Selection | None = None,
        *,
        error: str = "",
        progress: tuple[int, int] | None = None,
    ) -> str:
        shown = as_given(view) | (
            {} if not error else {k: given.get(k, "") for k in as_given(view)}
        )
        known, of_classes = self._known_classes(), self.browser.store.is_of_classes
        form = {
            "given": shown,
            "classes": known["class_name"],
            "store_classes": known["teacher_class"],
            "of_classes": of_classes,
            "sorts": get_args(Sort) if of_classes else ("random", "name"),
            "error": error,
            "progress": progress,
            "links": [] if selection is None else links_of(view, selection),
        }
        return render_selection(self.browser, selection, view.page, form)


def read_view(given: Given, default: View, known: Mapping[str, list[str]]) -> View:
    """What the fields of a form ask for.

    Args:
        given: the fields; none of them for the default.
        default: what is shown without a form.
        known: classes that fields may name.

    Raises:
        ConfigError: a field holds something else.
    """
    if not given:
        return default
    conditions: dict[str, Any] = {n: _read_number(n, given.get(n, "")) for n in _NUMBERS}
    conditions |= {n: _read_classes(given.get(n, ""), known[n]) for n in _CLASSES}
    sort: Any = given.get("sort", default.sort)
    require_one_of(Sort, "sort", sort)
    size = _read_whole("num_images", given.get("num_images"), default.page.num_images)
    number = _read_whole("page", given.get("page"), 1)
    chosen = FilterConfig(disagrees=given.get("disagrees") == "true", **conditions)
    page = replace(default.page, num_images=min(size, _MOST_IMAGES), number=number)
    return View(chosen, sort, page)


def as_given(view: View) -> dict[str, str]:
    """The fields of a form that asks for this view."""
    chosen = view.filter
    numbers = {name: getattr(chosen, name) for name in _NUMBERS}
    return {
        **{name: ", ".join(getattr(chosen, name)) for name in _CLASSES},
        **{name: "" if value is None else f"{value:g}" for name, value in numbers.items()},
        "disagrees": "true" if chosen.disagrees else "",
        "sort": view.sort,
        "num_images": str(view.page.num_images),
    }


def links_of(view: View, selection: Selection) -> list[tuple[str, str]]:
    """Text and address of the pages around this one."""
    last, number = selection.num_pages, selection.number
    pages = {"first": 1, "previous": number - 1, "next": number + 1, "last": last}
    given = {name: value for name, value in as_given(view).items() if value}
    return [
        (text, f"/?{urlencode({**given, 'page': page})}")
        for text, page in pages.items()
        if 1 <= page <= last and page != number
    ]


def _read_number(name: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name}: {text!r} is no number; give one such as 0.5") from None


def _read_whole(name: str, text: str | None, default: int) -> int:
    if text is None or not text.strip():
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise ConfigError(f"{name}: {text!r} is no whole number above 0")
    return int(text)


def _read_classes(text: str, known: list[str]) -> list[str]:
    """One class, or several between commas; the name of a class may have a comma in it."""
    if text in known:
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET requests for the page; everything else is not there."""

    server: PageServer
    server_version, sys_version = "fkd", ""

    def do_GET(self) -> None:
        """One page."""
        parts = urlsplit(self.path)
        name, _, port = self.headers.get("Host", "").rpartition(":")  # of a tunnel, another port
        if name not in _NAMES or not port.isdecimal():
            self._send(HTTPStatus.FORBIDDEN, "this server answers only under its own address")
        elif parts.path == "/favicon.ico":
            self._send(HTTPStatus.NO_CONTENT, "")
        elif parts.path != "/":
            self._send(HTTPStatus.NOT_FOUND, "there is one page, at /")
        else:
            self._send_page(parts.query)

    def _send_page(self, query: str) -> None:
        try:
            status, page = self.server.answer(query)
        except FKDError as error:  # not even an empty page can be made, of a damaged store
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, escape_controls(str(error)))
        else:
            self._send(status, page, "text/html")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: only the command line prints."""

    def _send(self, status: int, text: str, kind: str = "text/plain") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(data)
