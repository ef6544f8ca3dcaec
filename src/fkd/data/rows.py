"""Images in the rows of tables, as Parquet and Arrow files of Hugging Face hold them.

A row holds the encoded file in a struct {bytes, path} or in a plain binary column, and a label as
an integer (its names in the schema metadata `huggingface`) or as text.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fkd.data.class_sets import ClassSets
from fkd.data.folder import read_regular_file
from fkd.data.parquet_classes import holds_lists, holds_numbers, read_class_sets, read_classes
from fkd.data.parquet_files import DAMAGE, Footer, damage_reason
from fkd.errors import ImageError
from fkd.store.canonical import printable

try:
    import pyarrow as pa
except ImportError:  # the sources of rows say what to install
    pa = None


class Cells(Protocol):
    """The cells of the column of images, by file number and row; safe to call from many threads.

    Attributes:
        paths: of the files.
    """

    paths: list[str]

    def read(self, file: int, row: int) -> bytes | None:
        """The encoded image, None where there is none."""
        ...


class RowSource:
    """Images in the rows of files; the key of an image is "FILE/ROW", zero-padded.

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
        footers: Sequence[Footer],
        cells: Cells,
        label_column: str | None,
        remarks: Sequence[str],
    ) -> None:
        """Takes the files with these footers, in the order of their keys.

        Args:
            root: the folder or file, as given.
            footers: of the files.
            cells: their images.
            label_column: column of the labels; None for images without labels.
            remarks: on the choice of the files.

        Raises:
            ConfigError: the files name different classes, or a label is no class.
        """
        self.root = root
        self.remarks = list(remarks)
        self._files = [footer.file for footer in footers]
        self._cells = cells
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
        return f"{type(self).__name__}({self.root!r}, {len(self)} images, {classes})"

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


def image_bytes(cell: Any, where: str) -> bytes | None:
    """The encoded image of a cell of Hugging Face: bytes, or {bytes, path} of which one is null.

    Args:
        cell: what pyarrow gives.
        where: the file or data set of the cell, for messages.

    Raises:
        ImageError: the file that it names cannot be read.
    """
    if not isinstance(cell, dict):
        return cell if isinstance(cell, bytes) else None
    data, path = cell.get("bytes"), cell.get("path")
    if isinstance(data, bytes) or not isinstance(path, str) or not os.path.isabs(path):
        return data if isinstance(data, bytes) else None
    encoded = os.fsencode(path)
    return read_regular_file(encoded, f"{printable(encoded)} (of {printable(os.fsencode(where))})")
