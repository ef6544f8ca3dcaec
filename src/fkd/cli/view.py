"""`fkd view`: what a label store holds, as an HTML page or a series of them."""

import os
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from fkd.cli.console import format_size, make_bar, make_console, print_remark
from fkd.cli.pages import require_place, write_page
from fkd.data.sources import ImagesConfig, open_source, remarks_of
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.userfiles import home_path, is_hub_address
from fkd.viewing.browser import Browser
from fkd.viewing.filters import FilterConfig, Sort
from fkd.viewing.page import GENERATOR, PageConfig, render_choice
from fkd.viewing.server import PageServer, View


def view(
    store: str,
    images: ImagesConfig,
    *,
    out: str | None = None,
    overwrite: bool = False,
    filter: FilterConfig = FilterConfig(),  # noqa: B008 - never changed, the parser reads defaults
    sort: Sort = "random",
    partial: bool = False,
    allow_missing_images: bool = False,
    serve: bool = False,
    port: int = 0,
    page: PageConfig = PageConfig(),  # noqa: B008 - frozen, and the parser reads its defaults
) -> None:
    """Show images of a store, their crop boxes and the teacher's label of each crop.

    Writes one HTML page, which loads nothing: --page.number 2 is the next one of the same choice.
    With --serve, pages are made as they are asked for, by a server on this machine, and the choice
    is made on the page. Either way only the images of the page are read; filters and orders by
    labels read the labels of all images, and no image.

    Args:
        store: the store's folder.
        images: the images that were labeled.
        out: the page's file; by default STORE.html beside the store.
        overwrite: replace a file at that place that is not such a page.
        filter: which images are shown.
        sort: random; name; or by mean entropy of the labels or mean probability of the crops' most
            probable classes, low or high ones first.
        partial: also show a store of which only some shards are there.
        allow_missing_images: show the images that are there where others of the store are not.
        serve: serve pages to a browser on this machine instead of writing one.
        port: where they are served; 0 is any that is free.
        page: how much to show.
    """
    folder = home_path(store)
    console = make_console()
    if serve:
        if out is not None:
            raise ConfigError("out: --serve writes no file; leave one of them out")
        browser = _open(folder, images, partial, allow_missing_images, console)
        _serve(PageServer(browser, View(filter, sort, page), port), console)
        return
    if port:
        raise ConfigError("port: only a server has one; add --serve, or leave it out")
    if out is None and is_hub_address(folder):
        raise ConfigError("out: give the file of the page, e.g. --out labels.html")
    target = _beside(folder) if out is None else home_path(out)
    require_place(target, GENERATOR, overwrite=overwrite)
    browser = _open(folder, images, partial, allow_missing_images, console)
    with make_bar(console) as bar:
        task = bar.add_task("reading labels", total=len(browser.labeled), visible=False)

        def advance(count: int) -> None:
            bar.update(task, advance=count, visible=True)

        text = render_choice(browser, page, filter, sort, advance)
    write_page(target, text)
    console.print(f"{target} ({format_size(len(text.encode()))}): open it in a browser")


def _open(
    store: Path, images: ImagesConfig, partial: bool, allow_missing: bool, console: Console
) -> Browser:
    """The store beside its images; says what of them is left out."""
    labels = LabelStore.open(store, partial=partial)
    source = labeled_part(open_source(images), labels)
    browser = Browser(labels, source, allow_missing=allow_missing)
    for remark in [*remarks_of(source), *browser.remarks]:
        print_remark(console, remark)
    return browser


def _serve(server: PageServer, console: Console) -> None:
    """Serve pages until the user stops it."""
    console.print(f"{server.address}  open it in a browser; Ctrl-C ends the server")
    if "SSH_CONNECTION" in os.environ:
        port = server.server_port
        print_remark(console, f"from another machine: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE")
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


def _beside(store: Path) -> Path:
    """The page of a store, in the folder that the store is in."""
    named = store if store.name not in ("", "..") else Path(os.path.abspath(store))
    return named.parent / f"{named.name}.html"
