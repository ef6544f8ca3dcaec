"""Images in a folder that a Hugging Face data set was saved to (extra `[hf]`: pyarrow).

    SAVED/dataset_dict.json       only of a DatasetDict: the names of its splits, each a folder
    SAVED/state.json              the names of the files
    SAVED/data-00000-of-00002.arrow

The files are mapped into memory and read without the package `datasets`. Images are not decoded.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fkd.data.layout import describe_unused_split
from fkd.data.parquet_files import DAMAGE, Footer, damage_reason, keep_images
from fkd.data.rows import RowSource, image_bytes
from fkd.errors import ConfigError
from fkd.store.canonical import printable

try:
    import pyarrow as pa
except ImportError:  # the constructor says what to install
    pa = None

STATE, SPLITS = "state.json", "dataset_dict.json"
_MOST_BYTES = 64 << 20  # of these files
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True)
class ArrowFile(Footer):
    """An Arrow file, mapped into memory.

    Attributes:
        table: all of its rows (pyarrow).
    """

    table: Any

    def column(self, column: str) -> Any:
        """All values of a column."""
        return self.table.column(column)


class ArrowSource(RowSource):
    """Images in a folder written by `save_to_disk`; the key of an image is "FILE/ROW", zero-padded.

    Args:
        root: the folder of a Dataset, or of a DatasetDict.
        split: which part of a DatasetDict.
        image_column: column of the encoded images.
        label_column: column of the labels; None for images without labels.

    Raises:
        ConfigError: pyarrow is missing; the folder holds no saved data set, or has no such split or
            column; a file is missing or damaged; a label is no class.
    """

    def __init__(
        self,
        root: str,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = "label",
    ) -> None:
        """Maps the files of the data set, or of its split."""
        if pa is None:
            raise ConfigError("saved data sets need pyarrow: pip install fkd[hf]")
        folder, remarks = _folder_of(root, split)
        files = [open_arrow(folder, name) for name in _data_files(folder)]
        if not any(file.num_rows for file in files):
            raise ConfigError(f"images.root: {folder} has no rows, hence no images; give another")
        kept, others = keep_images(files, image_column, label_column)
        super().__init__(
            root, kept, ArrowCells(kept, image_column), label_column, [*remarks, *others]
        )


class ArrowCells:
    """The cells of one column of mapped files; mapped anew where a worker process is spawned."""

    def __init__(self, files: Sequence[Footer], column: str) -> None:
        self.paths = [file.path for file in files]
        self._column = column
        self._columns = [file.column(column) for file in files]

    def read(self, file: int, row: int) -> bytes | None:
        """The encoded image in row `row` of file number `file`."""
        return image_bytes(self._columns[file][row].as_py(), self.paths[file])

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._columns = [_map_file(path).column(self._column) for path in self.paths]


def is_saved_dataset(root: str) -> bool:
    """Whether a folder was written by `save_to_disk` of a Dataset or a DatasetDict."""
    names = _read_json(os.path.join(root, SPLITS)).get("splits")
    files = _read_json(os.path.join(root, STATE)).get("_data_files")
    return isinstance(names, list) or isinstance(files, list)


def open_arrow(folder: str, file: str) -> ArrowFile:
    """A file of a saved data set.

    Raises:
        ConfigError: it is missing, damaged or cut short.
    """
    path = os.path.join(folder, file)
    try:
        table = _map_file(path)
    except (*DAMAGE, pa.ArrowException) as error:
        raise ConfigError(
            f"images.root: {printable(os.fsencode(path))} cannot be read as Arrow "
            f"({damage_reason(error)}); restore it, or save the data set again"
        ) from error
    return ArrowFile(file, path, table.schema, table.num_rows, table)


def _map_file(path: str) -> Any:
    """The rows of a file; its bytes stay on disk until they are read."""
    with open(path, "rb") as file:
        file.seek(-min(len(_END_OF_STREAM), os.path.getsize(path)), os.SEEK_END)
        if file.read() != _END_OF_STREAM:  # pyarrow would take what is left for the whole
            raise ValueError("it is cut short")
    table = pa.ipc.open_stream(pa.memory_map(path)).read_all()
    table.validate(full=True)  # offsets that lead out of the file would crash
    return table


def _folder_of(root: str, split: str) -> tuple[str, list[str]]:
    """The folder of a Dataset, and remarks; `root` itself, or that of a split below it."""
    splits = _read_json(os.path.join(root, SPLITS)).get("splits")
    if isinstance(splits, list):
        if split not in splits or os.path.basename(split) != split:
            known = ", ".join(map(str, splits))
            raise ConfigError(f"images.split: {root} has no {split!r}, only {known}; choose one")
        return os.path.join(root, split), []
    return root, describe_unused_split(root, split)


def _data_files(folder: str) -> list[str]:
    """Names of the files of a saved Dataset, in the order of their keys."""
    state = _read_json(os.path.join(folder, STATE))
    entries = state.get("_data_files")
    if not isinstance(entries, list):
        raise ConfigError(
            f"images.root: {folder} holds no saved data set ({STATE} is missing or damaged); give "
            "the folder that `save_to_disk` wrote"
        )
    if state.get("_indices_data_files"):
        raise ConfigError(
            f"images.root: {folder} was saved by an old version of datasets, with its order in a "
            "file of its own; load it with `datasets.load_from_disk` and save it again"
        )
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(isinstance(n, str) and os.path.basename(n) == n for n in names):
        raise ConfigError(f"images.root: {STATE} of {folder} names no files; save it again")
    return sorted(map(str, names), key=lambda name: os.fsencode(name + "/"))


def _read_json(path: str) -> dict[str, Any]:
    """A JSON object; empty where the file is missing, is too large or holds something else."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MOST_BYTES:
            return {}
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
