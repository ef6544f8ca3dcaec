"""Images in Parquet files, as Hugging Face writes them (extra `[hf]`: pyarrow).

A row holds the encoded file in a struct {bytes, path} or in a plain binary column, and a label as
an integer (its names in the schema metadata `huggingface`) or as text. Images with several classes
have a list of either.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from fkd.data.class_sets import ClassSets
from fkd.data.listing import Folder, read_tree
from fkd.data.parquet_classes import holds_lists, holds_numbers, read_class_sets, read_classes
from fkd.data.parquet_files import (
    DAMAGE,
    choose_files,
    damage_reason,
    keep_images,
    read_footers,
)
from fkd.errors import ConfigError, ImageError
from fkd.store.canonical import printable

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ImportError:  # the constructor says what to install
    pa = None

CACHE_BYTES = 64 * 2**20
"""Bytes of row groups kept per source and process; one row group is kept in any case."""


class ParquetSource:
    """Images in the rows of Parquet files; the key of an image is "FILE/ROW", zero-padded.

    A label that is null or -1 means none. Without names in the metadata, the classes of an
    integer column are called "0", "1", ...; those of a column of text or truth values are its
    values, sorted. A column of lists is of images with several classes each, or none.

    Attributes:
        root: the folder or file, as given.
        class_names: names in the order of the labels, or None without labels.
        remarks: what the user may want to know of the files, a sentence each.
        labels_are_ids: whether the labels are numbers in the files, too, and not text.
        multi_label: whether an image has a list of classes.
    """

    def __init__(
        self,
        root: str,
        *,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = "label",
        tree: Folder | None = None,
    ) -> None:
        """Takes one file, or all files below a folder: those of `split`, if their names tell.

        Args:
            root: the file or folder.
            split: which files, where their names tell.
            image_column: column of the encoded images.
            label_column: column of the labels; None for images without labels.
            tree: what is below the folder, if that is known.

        Raises:
            ConfigError: pyarrow is missing; there is no such file, split or column; a file of a
                numbered set is missing; the files name different classes; a label is no class.
        """
        if pa is None:
            raise ConfigError("Parquet files need pyarrow: pip install fkd[hf]")
        if not os.path.isfile(root) and tree is None:
            tree = read_tree(root)
        files, self.remarks = choose_files(root, tree, split)
        folder = os.path.dirname(root) if tree is None else root
        footers, others = keep_images(read_footers(folder, files), image_column, label_column)
        self.remarks += others
        self.root = root
        self._files = [footer.file for footer in footers]
        self._cells = RowGroups([footer.path for footer in footers], image_column)
        self._first_rows = np.cumsum([0, *(footer.num_rows for footer in footers)])
        self.class_names: list[str] | None = None
        self._labels = np.full(len(self), -1, dtype=np.int32)
        self._sets: ClassSets | None = None
        self.multi_label = label_column is not None and holds_lists(footers, label_column)
        if label_column is not None and self.multi_label:
            self.class_names, self._sets = read_class_sets(footers, label_column)
        elif label_column is not None:
            self.class_names, self._labels = read_classes(footers, label_column)
        self.labels_are_ids = label_column is not None and holds_numbers(footers, label_column)

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
        """The class of image `i`, -1 for none or where it has a list."""
        return int(self._labels[i])

    def labels(self, i: int) -> np.ndarray:
        """All classes of image `i`, int64 (n,)."""
        if self._sets is not None:
            return self._sets[i]
        return self._labels[i : i + 1][self._labels[i : i + 1] >= 0].astype(np.int64)

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
        except (*DAMAGE, pa.ArrowException) as error:
            raise ImageError(
                f"{self.name(i)} cannot be read ({damage_reason(error)}); restore the file"
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


def _binary_values(column: Any) -> Any:
    if not pa.types.is_struct(column.type):
        return column
    return pa.chunked_array(
        [chunk.field("bytes") for chunk in column.chunks], column.type.field("bytes").type
    )
