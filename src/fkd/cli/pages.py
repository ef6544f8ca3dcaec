"""Pages that verbs write: where one may be written, and how it is."""

import os
from contextlib import suppress
from pathlib import Path

from fkd.errors import ConfigError
from fkd.userfiles import os_reason
from fkd.viewing.templates import is_page


def require_place(page: Path, generator: str, *, overwrite: bool) -> None:
    """Refuse a place where something else would be lost.

    Args:
        page: the file to write.
        generator: what writes it, such as "fkd view"; its own earlier page may be replaced.
        overwrite: replace another file, too.

    Raises:
        ConfigError: there is a folder, or another file.
    """
    if page.is_dir():
        raise ConfigError(f"out: {page} is a folder; give the file of the page, such as page.html")
    if not overwrite and os.path.lexists(page) and not is_page(page, generator):
        raise ConfigError(
            f"out: {page} is there and was not written by `{generator}`; give another file, or "
            "--overwrite"
        )


def write_page(page: Path, text: str) -> None:
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
