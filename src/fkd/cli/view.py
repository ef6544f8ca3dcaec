"""`fkd view`: what a label store holds, as an HTML page."""

import os
from contextlib import suppress
from pathlib import Path

from fkd.cli.console import format_size, make_console
from fkd.data.sources import ImagesConfig, open_source
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.userfiles import home_path, os_reason
from fkd.viewing.page import PageConfig, is_page, render_page


def view(
    store: str,
    images: ImagesConfig,
    *,
    out: str | None = None,
    overwrite: bool = False,
    page: PageConfig = PageConfig(),  # noqa: B008 - frozen, and the parser reads its defaults
) -> None:
    """Write one HTML page that shows images, crop boxes and the teacher's label of each crop.

    Args:
        store: the store's folder.
        images: the images that were labeled.
        out: the page's file; by default STORE.html beside the store.
        overwrite: replace a file at that place that is not such a page.
        page: how much to show.
    """
    folder = home_path(store)
    target = _beside(folder) if out is None else home_path(out)
    if target.is_dir():
        raise ConfigError(
            f"out: {target} is a folder; give the file of the page, such as page.html"
        )
    if not overwrite and os.path.lexists(target) and not is_page(target):
        raise ConfigError(
            f"out: {target} is there and was not written by `fkd view`; give another file, or "
            "--overwrite"
        )
    labels = LabelStore.open(folder)
    text = render_page(labels, labeled_part(open_source(images), labels), page)
    _write(target, text)
    make_console().print(f"{target} ({format_size(len(text))}): open it in a browser")


def _write(page: Path, text: str) -> None:
    """Write the page, or leave no part of one where there was nothing.

    Raises:
        ConfigError: the disk is full or refuses.
    """
    is_new = not os.path.lexists(page)
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        if is_new and page.is_file():
            with suppress(OSError):
                page.unlink()
        raise ConfigError(
            f"out: {page} cannot be written: {os_reason(error)}; give another file"
        ) from error


def _beside(store: Path) -> Path:
    """The page of a store, in the folder that the store is in."""
    named = store if store.name not in ("", "..") else Path(os.path.abspath(store))
    return named.parent / f"{named.name}.html"
