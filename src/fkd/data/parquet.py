"""Images in Parquet files, as Hugging Face writes them (extra `[hf]`: pyarrow).

A row holds the encoded file in a struct {bytes, path} or in a plain binary column, and a label as
an integer (its names in the schema metadata `huggingface`) or as text.
"""

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from fkd.errors import ConfigError, ImageError
from fkd.store.canonical import printable

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ImportError:  # the constructor says what to install
    pa = None

CACHE_BYTES = 64 * 2**20
"""Bytes of row groups kept per source and process; one row group is kept in any case."""

_SPLIT_IN_PATH = re.compile(r"(?:^|/)(train|training|validation|valid|val|test|testing)(?=[-_./])")


class ParquetSource:
    """Images in the rows of Parquet files; the key of an image is "FILE/ROW", zero-padded.

    A label that is null or negative means none. Without names in the metadata, the classes of an
    integer column are called "0", "1", ...; those of a text column are its values, sorted.

    Attributes:
        root: the folder or file, as given.
        class_names: names in the order of the labels, or None without a label column.
    """

    def __init__(
        self,
        root: str,
        *,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = "label",
    ) -> None:
        """Takes one file, or all files below a folder: those of `split`, if their names tell.

        Raises:
            ConfigError: pyarrow is missing; there is no such file, split or column; a label has no
                class name.
        """
        if pa is None:
            raise ConfigError("Parquet files need pyarrow: pip install fkd[hf]")
        folder, self._files = _find_files(root, split)
        paths = [os.path.join(folder, file) for file in self._files]
        schema, rows = _read_footers(paths)
        _check_columns(schema, image_column, label_column, paths[0])
        self.root = root
        self._cells = RowGroups(paths, image_column)
        self._first_rows = np.cumsum([0, *rows])
        self.class_names: list[str] | None = None
        self._labels = np.full(len(self), -1, dtype=np.int32)
        if label_column is not None:
            self.class_names, self._labels = _read_classes(paths, schema, label_column)

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"ParquetSource({self.root!r}, {len(self)} images, {classes})"

    def key(self, i: int) -> bytes:
        """File below the root and row, such as b"train-00000-of-00001.parquet/000123"."""
        file, row = self._locate(i)
        digits = max(6, len(str(self._first_rows[file + 1] - self._first_rows[file] - 1)))
        return os.fsencode(self._files[file]) + b"/%0*d" % (digits, row)

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none."""
        return int(self._labels[i])

    def name(self, i: int) -> str:
        """File and row of image `i`, printable."""
        file, row = self._locate(i)
        return f"{printable(os.fsencode(self._cells.paths[file]))} row {row}"

    def read(self, i: int) -> bytes:
        """The encoded image `i`.

        Raises:
            ImageError: the row holds no bytes, or the file is damaged or gone.
        """
        try:
            data = self._cells.read(*self._locate(i))
        except (OSError, pa.ArrowException) as error:
            raise ImageError(
                f"{self.name(i)} cannot be read ({error}); restore the file"
            ) from error
        if data is None:
            raise ImageError(
                f"{self.name(i)} has no image bytes (perhaps only a path); "
                "embed the images in the file"
            )
        return data

    def _locate(self, i: int) -> tuple[int, int]:
        """File number and row within the file."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        file = int(np.searchsorted(self._first_rows, i, side="right")) - 1
        return file, i - int(self._first_rows[file])


class RowGroups:
    """Cells of one column of many files; only the row groups in recent use are in memory.

    Safe to call from many threads, and in worker processes, forked or spawned: each process opens
    the files for itself.
    """

    def __init__(self, paths: Sequence[str], column: str) -> None:
        self.paths = list(paths)
        self._column = column
        self._start_process()

    def read(self, file: int, row: int) -> bytes | None:
        """The bytes in row `row` of file number `file`, None for a null."""
        if self._process != os.getpid():
            self._start_process()
        with self._lock:
            opened, ends = self._open(file)
            group = int(np.searchsorted(ends, row, side="right"))
            values = self._load(file, group, opened)
        first_row = int(ends[group - 1]) if group else 0
        cell: bytes | None = values[row - first_row].as_py()
        return cell

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_process()

    def _start_process(self) -> None:
        """Nothing open, nothing cached: a fork must not inherit file positions or a held lock."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._opened: dict[int, tuple[Any, np.ndarray]] = {}
        self._loaded: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def _open(self, file: int) -> tuple[Any, np.ndarray]:
        """A file and the row at which each of its row groups ends; the lock is held."""
        if file not in self._opened:
            opened = pq.ParquetFile(self.paths[file])
            groups = range(opened.metadata.num_row_groups)
            ends = np.cumsum([opened.metadata.row_group(g).num_rows for g in groups])
            self._opened[file] = opened, ends
        return self._opened[file]

    def _load(self, file: int, group: int, opened: Any) -> Any:
        """The values of a row group, through the cache; the lock is held."""
        if (file, group) not in self._loaded:
            # No threads: pyarrow's pool does not survive a fork.
            table = opened.read_row_group(group, columns=[self._column], use_threads=False)
            self._loaded[file, group] = _binary_values(table.column(0))
        self._loaded.move_to_end((file, group))
        while len(self._loaded) > 1 and sum(v.nbytes for v in self._loaded.values()) > CACHE_BYTES:
            self._loaded.popitem(last=False)
        return self._loaded[file, group]


def _find_files(root: str, split: str) -> tuple[str, list[str]]:
    """A folder, and the Parquet files below it in the order of their keys."""
    if os.path.isfile(root):
        folder, file = os.path.split(root)
        return folder, [file]
    files = [
        os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/")
        for folder, _, names in os.walk(root)
        for file in names
        if file.endswith(".parquet") and not file.startswith(".")
    ]
    if not files:
        raise ConfigError(f"images.root: no .parquet file in {root}; give another file or folder")
    splits = {file: _SPLIT_IN_PATH.findall(file)[-1:] for file in files}
    if any(splits.values()):
        files = [file for file in files if splits[file] == [split]]
    if not files:
        known = ", ".join(sorted({name for names in splits.values() for name in names}))
        raise ConfigError(f"images.split: {root} has no {split!r}, only {known}; choose one")
    # In a key "/" follows the file, so the order must see that.
    return root, sorted(files, key=lambda file: os.fsencode(file + "/"))


def _read_footers(paths: list[str]) -> tuple[Any, list[int]]:
    """The schema, which must be the same in all files, and the number of rows of each file."""
    schemas, rows = [], []
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                schemas.append(file.schema_arrow)
                rows.append(file.metadata.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(
                f"images.root: {path} cannot be read as Parquet ({error}); restore or remove it"
            ) from error
        if schemas[-1] != schemas[0]:
            raise ConfigError(
                f"images.root: {path} and {paths[0]} have different columns; "
                "keep one data set in one folder"
            )
    return schemas[0], rows


def _check_columns(schema: Any, image: str, label: str | None, path: str) -> None:
    for field, column in (("image_column", image), ("label_column", label)):
        if column is not None and column not in schema.names:
            there = ", ".join(schema.names)
            hint = " (or null for images without labels)" if field == "label_column" else ""
            raise ConfigError(
                f"images.{field}: {path} has no column {column!r}, only {there}; name one{hint}"
            )
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ConfigError(
            f"images.image_column: column {image!r} of {path} holds {kind}, not encoded images; "
            "name a column of bytes or of structs {bytes, path}"
        )


def _binary_values(column: Any) -> Any:
    if not pa.types.is_struct(column.type):
        return column
    return pa.chunked_array(
        [chunk.field("bytes") for chunk in column.chunks], column.type.field("bytes").type
    )


def _read_classes(paths: list[str], schema: Any, column: str) -> tuple[list[str], np.ndarray]:
    """Class names and the label of every row (int32, -1 for none)."""
    kind = schema.field(column).type
    tables = [pq.read_table(path, columns=[column], use_threads=False) for path in paths]
    values = pa.concat_tables(tables).column(0)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_classes(values.to_pylist())
    if not pa.types.is_integer(kind):
        raise ConfigError(
            f"images.label_column: column {column!r} of {paths[0]} holds {kind}, not classes; "
            "name another, or null for images without labels"
        )
    labels = np.maximum(values.fill_null(-1).to_numpy(), -1)
    largest = int(labels.max(initial=-1))
    names = _names_in_metadata(schema, column) or [str(i) for i in range(largest + 1)]
    if largest >= len(names):
        raise ConfigError(
            f"images.label_column: {paths[0]} has label {largest} in column {column!r}, but names "
            f"for only {len(names)} classes; correct the metadata or the labels"
        )
    return names, labels.astype(np.int32)


def _text_classes(texts: list[str | None]) -> tuple[list[str], np.ndarray]:
    names = sorted({text for text in texts if text is not None})
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(names)}
    return names, np.array([label_of.get(text, -1) for text in texts], dtype=np.int32)


def _names_in_metadata(schema: Any, column: str) -> list[str] | None:
    """The names of a Hugging Face ClassLabel, if the schema carries them."""
    try:
        document = json.loads((schema.metadata or {})[b"huggingface"])
        names = document["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):  # no such metadata, or not in this form
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
