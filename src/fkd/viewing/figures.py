"""Figures and results that a report shows: SVG and PNG as they are, JSON as tables."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fkd.errors import ConfigError, reason_of
from fkd.userfiles import home_path, os_reason
from fkd.viewing.tables import Cell, Table

_IMAGES = {
    ".png": ("image/png", b"\x89PNG\r\n\x1a\n"),
    ".jpg": ("image/jpeg", b"\xff\xd8"),
    ".jpeg": ("image/jpeg", b"\xff\xd8"),
}
_SVG = ".svg"
_ENDINGS = (_SVG, *_IMAGES, ".json")
_SVG_HEAD = 4096  # bytes in which an SVG file begins its drawing
_MOST_ROWS = 1000  # all classes of ImageNet
_MOST_TABLES = 40
_FOLDED = 20  # rows above which a table is shown when asked for
_FEW = 12  # numbers in one cell, or members of an object that needs no table of its own
_LONGEST = 400  # characters of a cell


@dataclass(frozen=True)
class Figure:
    """One file.

    Attributes:
        title: its name for people.
        file: its name.
        uri: of an image, with the whole image in it; None of results.
        tables: of results.
    """

    title: str
    file: str
    uri: str | None
    tables: list[Table]


def read_figure(path: str) -> Figure:
    """A figure (SVG, PNG, JPEG) or a file of results (JSON).

    Raises:
        ConfigError: it is neither, or cannot be read.
    """
    file = home_path(path)
    ending = file.suffix.lower()
    if ending not in _ENDINGS:
        raise ConfigError(
            f"figures: {path} is of no kind that a page can show; give files that end with "
            f"{', '.join(_ENDINGS)}"
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"figures: {path} cannot be read: {os_reason(error)}") from error
    title = file.stem.replace("-", " ").replace("_", " ")
    if ending == ".json":
        return Figure(title, file.name, None, _tables_of(data, path))
    return Figure(title, file.name, _data_uri(data, ending, path), [])


def _data_uri(data: bytes, ending: str, path: str) -> str:
    """The image inside a URL. An SVG file shown as an image runs no script and loads nothing."""
    if ending == _SVG:
        kind, sound = "image/svg+xml", b"<svg" in data[:_SVG_HEAD]
    else:
        kind, magic = _IMAGES[ending]
        sound = data.startswith(magic)
    if not sound:
        raise ConfigError(
            f"figures: {path} is not what its name says; give an image, or a file of results"
        )
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _tables_of(data: bytes, path: str) -> list[Table]:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"figures: {path} is not JSON, as its name says: {reason_of(error)}"
        ) from error
    return tables_of(content)


def tables_of(value: Any, caption: str = "") -> list[Table]:
    """Any JSON value as tables: its numbers and texts by name, lists of objects row by row."""
    if isinstance(value, dict):
        of_rows = _as_rows(value)
        return _of_object(value, caption) if of_rows is None else _of_list(of_rows, caption)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return _of_list(value, caption)
    rows = list(enumerate(value)) if isinstance(value, list) else [("", value)]
    return [_table(caption, ["number", "value"], rows)]


def _of_object(value: dict[str, Any], caption: str) -> list[Table]:
    """What is simple in one table, every other member in tables of its own."""
    simple, nested = _split(value)
    tables = [_table(caption, ["name", "value"], list(simple.items()))] if simple else []
    for name, item in nested.items():
        tables += tables_of(item, f"{caption}.{name}" if caption else name)
    return tables[:_MOST_TABLES]


def _of_list(value: Sequence[dict[str, Any]], caption: str) -> list[Table]:
    """What is simple in each object as a row of one table, the other members after it."""
    parts = [_split(item) for item in value]
    known = dict.fromkeys(
        name for simple, _ in parts for name, item in simple.items() if item not in (None, "")
    )
    columns = list(known)
    rows = [[simple.get(name, "") for name in columns] for simple, _ in parts]
    tables = [_table(caption, columns, rows)] if columns else []
    for number, (simple, nested) in enumerate(parts[:_MOST_TABLES]):
        texts = [text for text in simple.values() if isinstance(text, str)]
        row = ", ".join(texts[:2]) or str(number)  # such as model and set
        for name, item in nested.items():
            inner = tables_of(item, ": ".join(filter(None, (caption, row, name))))
            tables += [replace(table, folded=True) for table in inner]
    return tables[:_MOST_TABLES]


def _as_rows(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Objects of the same members by name as rows that begin with that name; None for others."""
    items = list(value.values())
    if len(items) < 2 or not all(isinstance(item, dict) and item for item in items):
        return None
    if any(item.keys() != items[0].keys() for item in items):
        return None
    return [{"name": name, **item} for name, item in value.items()]


def _split(value: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Simple members, those of small objects by dotted names among them, and all others."""
    simple: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for name, item in value.items():
        if _is_simple(item):
            simple[name] = item
        elif isinstance(item, dict) and len(item) <= _FEW and all(map(_is_simple, item.values())):
            simple |= {f"{name}.{inner}": each for inner, each in item.items()}
        else:
            nested[name] = item
    return simple, nested


def _is_simple(value: Any) -> bool:
    """Whether a value is shown in one cell: a number, a text, nothing, or a short list of these."""
    if isinstance(value, list):
        return len(value) <= _FEW and not any(isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    left_out = len(rows) - _MOST_ROWS
    return Table(
        caption=caption or "values",
        columns=list(columns),
        rows=[[_cell(value) for value in row] for row in rows[:_MOST_ROWS]],
        sortable=len(rows) > 1 and len(columns) > 2,
        note=f"{left_out:,} more rows are in the file." if left_out > 0 else "",
        folded=len(rows) > _FOLDED,
    )


def _cell(value: Any) -> Cell:
    """Numbers with up to 5 significant digits, the rest as text or JSON."""
    if value is None:
        return Cell("")
    if isinstance(value, int | float) and not isinstance(value, bool):
        grouped = isinstance(value, int) and abs(value) >= 10_000
        text = (
            f"{value:,}" if grouped else f"{value:.5g}" if isinstance(value, float) else f"{value}"
        )
        return Cell(text, float(value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Cell(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")
