"""The pages: their templates, their one style sheet, and how a page is known again.

A page is one file that loads nothing. Names of files, classes and runs are data: everything that
a template prints is escaped, control characters and those that turn text around are spelled out,
and the page's own policy lets no script run but the one that belongs to it.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from fkd.errors import escape_controls

_HEAD_BYTES = 1024  # in which every page says what wrote it


def render(name: str, *, script: str, form_allowed: bool = False, **values: Any) -> str:
    """A page as HTML.

    Args:
        name: of the template.
        script: name of the JavaScript file of the page, the only one that may run.
        form_allowed: whether the page may send its form to the server that it came from.
        values: what the template shows.
    """
    environment = _environment()
    policy = _policy(environment.get_template(script).render(), form_allowed)
    return environment.get_template(name).render(policy=policy, script=script, **values)


def is_page(path: Path, generator: str) -> bool:
    """Whether a file is a page of this generator, such as "fkd view", as its first bytes tell.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'<meta name="generator" content="{generator}">'.encode() in file.read(_HEAD_BYTES)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_spell_out,
    )


def _read(name: str) -> str:
    return files("fkd.viewing").joinpath(name).read_text(encoding="utf-8")


def _spell_out(value: Any) -> Any:
    """What a template shows, without characters that would turn around the text beside them."""
    return escape_controls(value) if type(value) is str else value


def _policy(script: str, form_allowed: bool) -> str:
    """Nothing is loaded, and no script runs but this one, even where escaping should fail."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action "
        + ("'self'" if form_allowed else "'none'")
    )
