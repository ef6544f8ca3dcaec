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

from fkd.data.listing import Folder, read_tree
from fkd.data.parquet_files import choose_files, keep_images, read_footers
from fkd.data.rows import RowSource
from fkd.errors import ConfigError

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ImportError:  # the constructor says what to install
    pa = None

CACHE_BYTES = 64 * 2**20
"""Bytes of row groups kept per source and process; one row group is kept in any case."""


class ParquetSource(RowSource):
    """Images in the rows of Parquet files; the key of an image is "FILE/ROW", zero-padded.

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

    def __init__(
        self,
        root: str,
        *,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = "label",
        tree: Folder | None = None,
    ) -> None:
        """Takes one file, or all files below a folder: those of `split`, if their names tell."""
        if pa is None:
            raise ConfigError("Parquet files need pyarrow: pip install fkd[hf]")
        if not os.path.isfile(root) and tree is None:
            tree = read_tree(root)
        files, remarks = choose_files(root, tree, split)
        folder = os.path.dirname(root) if tree is None else root
        footers, others = keep_images(read_footers(folder, files), image_column, label_column)
        cells = RowGroups([footer.path for footer in footers], image_column)
        super().__init__(root, footers, cells, label_column, [*remarks, *others])


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
