"""A text file of images and their classes: one path per line, or a table with a header.

    train.txt           n01440764/10026.JPEG 0        a path, perhaps a class after blanks or a tab
    train.csv, .tsv     path,class                    with or without a header
                        n01440764/10026.JPEG,tench
                        beach.jpg,person|boat         several classes; or numbers, 3 7
    classnames.txt      names of numbered classes, one per line, if it is there

Paths begin at the folder of the list. The images are read where they lie, as those of a folder.
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fkd.data.folder import FolderSource
from fkd.data.formats import image_extensions
from fkd.data.layout import describe_unused_split
from fkd.data.list_advice import advise
from fkd.data.noted_classes import NUMBER, Noted, class_list, number_noted, split_classes
from fkd.errors import ConfigError, escape_controls
from fkd.userfiles import read_text

EXTENSIONS = (".txt", ".csv", ".tsv")
"""What files of paths may be called."""

_PATHS = ("image", "path", "file", "filename", "file_name", "filepath", "image_path", "img")
_CLASSES = ("label", "class", "class_name", "class_id", "target", "category")
_BETWEEN = re.compile(r"\s*[|;]\s*")  # several classes in a cell
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """A line of a list.

    Attributes:
        line: its number in the file, from 1.
        path: of the image, as written.
        label: its class, as written; None for none.
    """

    line: int
    path: str
    label: str | None


class ListSource(FolderSource):
    """The images of a list; the key of an image is its path below the folder of the list.

    A path that leads out of that folder is the key as it is written: relative with "..", or
    absolute.

    Attributes:
        root: the list.
        labels_are_ids: whether the classes are numbers in the list.
        multi_label: whether images have several classes each, or none.

    Args:
        file: the list.
        image_column: column of the paths, where there is a header.
        label_column: column of the classes there; None for images without classes.
        split: the setting, which a list has no use for.

    Raises:
        ConfigError: the list is empty or cannot be read; a line is no path of a file, or names one
            a second time; a class is no class id; the columns are not there.
    """

    def __init__(
        self,
        file: str,
        image_column: str = "image",
        label_column: str | None = "label",
        split: str = "train",
    ) -> None:
        rows = list(read_list(file, image_column, label_column))
        if not rows:
            raise ConfigError(f"images.root: {file} names no image; write one path per line")
        folder = os.path.dirname(file) or "."
        keys = _keys(file, folder, rows)
        found = number_noted([_class(row.label) for row in rows], [None] * len(rows), folder, file)
        super().__init__(file, keys, found.labels, found.names, _unread_split(file, split))
        self._folder = os.fsencode(folder)
        self._sets, self.multi_label = found.sets, found.multi_label
        self.labels_are_ids = found.are_ids

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"ListSource({self.root!r}, {len(self)} images, {classes})"

    def labels(self, i: int) -> np.ndarray:
        """All classes of image `i`, int64 (n,)."""
        return self._sets[i]

    def _path(self, i: int) -> bytes:
        return os.path.join(self._folder, self._keys[i])


def read_list(file: str, image_column: str, label_column: str | None) -> Iterator[Listed]:
    """The lines of a list that are not blank.

    Raises:
        ConfigError: the file cannot be read, or a line is not of its form.
    """
    text = read_text("images.root", file)
    lines = text.split("\n")  # not splitlines: some characters within a name end a line for it
    if "\0" in text:
        number = next(n for n, line in enumerate(lines, 1) if "\0" in line)
        raise ConfigError(
            f"images.root: line {number} of {file} has a zero byte; save the list as UTF-8"
        )
    if _is_table(file):
        yield from _read_table(file, text, image_column, label_column)
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            path, label = _split_line(line.strip(), f"line {number} of {file}")
            yield Listed(number, path, None if label_column is None else label)


def _is_table(file: str) -> bool:
    return file.lower().endswith((".csv", ".tsv"))


def _rows_of(file: str, text: str) -> Any:
    delimiter = "\t" if file.lower().endswith(".tsv") else ","
    return csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)


def _unread_split(file: str, split: str) -> list[str]:
    """A remark on splits, which lists do not have: all of their images are taken."""
    header: list[str] = []
    if _is_table(file):
        header = next(_rows_of(file, read_text("images.root", file)), [])
    if "split" in [cell.strip().lower() for cell in header]:
        return [f"the column split of {file} is not read; write a list of each split"]
    if describe_unused_split(os.path.splitext(file)[0], split):
        return [f"images.split {split} chooses nothing: {file} is a list, which has no splits"]
    return []


def _split_line(line: str, where: str) -> tuple[str, str | None]:
    """Path and class: parts of a line that a tab or blanks divide; a class is no image.

    Raises:
        ConfigError: tabs divide it into more than two parts.
    """
    if "\t" in line:
        path, _, label = line.partition("\t")
        if "\t" in label.strip():
            raise ConfigError(
                f"images.root: tabs divide {where} into more than a path and a class; leave the "
                "others out, or call the list .tsv and put the names of its columns first"
            )
        return path.strip(), label.strip() or None
    if os.fsencode(line.lower()).endswith(image_extensions()):
        return line, None
    parts = line.rsplit(None, 1)
    return (parts[0], parts[1]) if len(parts) == 2 else (line, None)


def _read_table(
    file: str, text: str, image_column: str, label_column: str | None
) -> Iterator[Listed]:
    reader = _rows_of(file, text)
    columns: tuple[int, int | None] | None = None
    width = 0
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                width = len(row)
                columns, is_header = _find_columns(file, row, image_column, label_column)
                if is_header:
                    continue
            if len(row) != width:
                raise ConfigError(
                    f"images.root: line {reader.line_num} of {file} has {len(row)} columns, the "
                    f"first has {width}; quote what contains the separator"
                )
            label = None if columns[1] is None else row[columns[1]].strip() or None
            yield Listed(reader.line_num, row[columns[0]].strip(), label)
    except csv.Error as error:
        raise ConfigError(
            f"images.root: line {reader.line_num} of {file} is no line of a table ({error}); "
            "correct it"
        ) from error


def _find_columns(
    file: str, first: Sequence[str], image_column: str, label_column: str | None
) -> tuple[tuple[int, int | None], bool]:
    """Where a table has paths and classes, and whether its first line is a header.

    Raises:
        ConfigError: it is, and does not name them; or it is not, and there are more than two
            columns.
    """
    names = [cell.strip().lower() for cell in first]
    image = _position(names, image_column, _PATHS)
    if image is None:
        if len(names) > 2 or image_column != "image":
            raise ConfigError(
                f"images.image_column: the first line of {file} has no column {image_column!r}, "
                f"only {_shown(', '.join(first))}; name the columns there, or the one of the paths"
            )
        return (0, 1 if len(names) == 2 and label_column is not None else None), False
    if label_column is None or len(names) == 1:
        return (image, None), True
    label = _position(names, label_column, _CLASSES)
    if label is None:
        raise ConfigError(
            f"images.label_column: {file} has no column {label_column!r}, only "
            f"{_shown(', '.join(first))}; name one (or null for images without labels)"
        )
    return (image, label), True


def _position(names: Sequence[str], wanted: str, usual: Sequence[str]) -> int | None:
    """Where a column is; one of the usual names does for the first of them, the default.

    Raises:
        ConfigError: two columns have this name.
    """
    candidates = [wanted.lower(), *(usual if wanted == usual[0] else ())]
    found = next((name for name in candidates if name in names), None)
    if found is None:
        return None
    if names.count(found) > 1:
        raise ConfigError(
            f"images.root: two columns are called {found!r}; rename one, or several classes of an "
            "image go into one cell (ant|bee)"
        )
    return names.index(found)


def _keys(file: str, folder: str, rows: Sequence[Listed]) -> list[bytes]:
    """The key of each image.

    Raises:
        ConfigError: a path is no file, or a file comes twice, also where it is written otherwise.
    """
    root = os.path.realpath(folder)  # once: it asks the system for every folder above
    keys = [_key(file, folder, root, row) for row in rows]
    lines: dict[bytes, int] = {}
    for key, row in zip(keys, rows, strict=True):
        place = os.path.normpath(os.path.join(os.fsencode(root), key))
        if place in lines:
            raise ConfigError(
                f"images.root: lines {lines[place]} and {row.line} of {file} name the same image "
                f"{_shown(row.path)}; an image is labeled once, remove one of them"
            )
        lines[place] = row.line
    _require_files(file, folder, keys, rows)
    return keys


def _require_files(file: str, folder: str, keys: Sequence[bytes], rows: Sequence[Listed]) -> None:
    """Refuse paths of which there is no file.

    Raises:
        ConfigError: names the first, and says how many there are.
    """
    root = os.fsencode(folder)
    missing = [i for i, key in enumerate(keys) if not os.path.isfile(os.path.join(root, key))]
    if not missing:
        return
    first, more = rows[missing[0]], len(missing) - 1
    place = "" if os.path.isabs(first.path) else f" below {folder}"
    others = f", and {more:,} more {'is' if more == 1 else 'are'} not" if more else ""
    advice = advise(first.path, folder, is_first=first.line == 1, is_table=_is_table(file))
    raise ConfigError(
        f"images.root: {_shown(first.path)} in line {first.line} of {file} is no file{place}"
        f"{others}; {advice}"
    )


def _key(file: str, folder: str, root: str, row: Listed) -> bytes:
    """The path of a line as seen from the folder; absolute if it was written so and lies elsewhere.

    Raises:
        ConfigError: it is none that can be looked up, or ".." in it follows a link.
    """
    reason = None
    if not row.path:
        reason = "names no path"
    elif _ADDRESS.match(row.path):
        reason = f"is an address ({_shown(row.path)}); fetch the images and list their paths"
    elif _leads_through_link(folder, row.path):
        reason = (
            f"has '..' behind a link to a folder ({_shown(row.path)}), which means one file to the "
            "system and another to a reader; write the path without it"
        )
    if reason is not None:
        raise ConfigError(f"images.root: line {row.line} of {file} {reason}")
    return os.fsencode(_below(folder, root, row.path))


def _leads_through_link(folder: str, path: str) -> bool:
    """Whether the system takes ".." in a path for another folder than the one before it."""
    parts = path.split("/")
    back = [i for i, part in enumerate(parts) if part == ".." and i]
    places = [os.path.join(folder, *parts[:i]) if parts[0] else "/".join(parts[:i]) for i in back]
    return any(os.path.islink(place) for place in places)


def _below(folder: str, root: str, path: str) -> str:
    """A path as seen from the folder of a list, whose links `root` has followed."""
    path = os.path.expanduser(path)
    # The system takes ".." in a relative path for the folder above the one that a link leads to.
    here = os.path.abspath(folder) if os.path.isabs(path) else root
    below = os.path.relpath(os.path.join(here, path), here)
    is_elsewhere = below == os.pardir or below.startswith(os.pardir + os.sep)
    kept = os.path.normpath(path) if is_elsewhere else below
    return kept.replace(os.sep, "/")


def _class(label: str | None) -> Noted:
    """A class by its number or by its name, or several of them."""
    if label is None:
        return None
    parts = split_classes(label)
    if isinstance(parts, str) and _BETWEEN.search(label):
        parts = [part for part in _BETWEEN.split(label) if part]
    if isinstance(parts, list):
        return class_list([escape_controls(part) for part in parts])
    return int(label) if NUMBER.fullmatch(label) else escape_controls(label)


def _shown(text: str) -> str:
    """A part of a file as messages show it."""
    return escape_controls(text if len(text) <= 120 else text[:117] + "...")
