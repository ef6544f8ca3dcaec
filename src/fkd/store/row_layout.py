"""What is needed to find a row of a shard: its columns, and how far apart rows lie in them.

The checksum of a row runs over its bytes in every column in the order of the file (largest items
first, then by name), which puts the bytes of the key last, and in a compact store those of the
packed record behind them. record.crc32 itself is left out; key.offset counts with the two entries
around the key (and so does record.offset), so rows overlap there:

    key.offset      | 0 | 7 | 15 | ...
    row 0             ^---^
    row 1                 ^----^
"""

import math
from collections.abc import Sequence

import numpy as np

from fkd.store.layout import Column

KEYS, RECORDS = 0, 1
"""Columns whose rows have different lengths, as positions in `VARIABLE`."""
VARIABLE = (("key.bytes", "key.offset"), ("record.bytes", "record.offset"))
"""Each of them, and the column of its offsets."""
AS_INT64 = {"image.bytes", "image.size", "crop.box", "label.index"}
"""Columns that are read as int64."""

_CHECKSUM = "record.crc32"
_PER_CROP = ("crop.", "label.")


class RowLayout:
    """The columns of a shard in the order of the file.

    Attributes:
        columns: in this order.
        number_of: position of each by name.
        row_bytes: distance between rows, int64 (columns,); 0 where rows have different lengths.
        widths: items of a row, or of one crop.
        inner_shapes: shape of these items.
        of_images, of_crops: numbers of the columns of image files, and of crops and labels.
        variable: what follows the fixed columns: keys, and packed records if there are any.
        summed: number of each further column that the checksum covers, and its bytes of a row.
        checksum: number of the column of checksums.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.number_of = {column.name: number for number, column in enumerate(columns)}
        sizes = [column.dtype.itemsize * math.prod(column.shape) for column in columns]
        self.variable = [k for k, (name, _) in enumerate(VARIABLE) if name in self.number_of]
        for kind in self.variable:
            sizes[self.number_of[VARIABLE[kind][0]]] = 0
        self.row_bytes = np.array(sizes, np.int64)
        self.inner_shapes = [_inner_shape(column) for column in columns]
        self.widths = [math.prod(shape) for shape in self.inner_shapes]
        self.of_images = [n for name, n in self.number_of.items() if name.startswith("image.")]
        self.of_crops = [n for name, n in self.number_of.items() if name.startswith(_PER_CROP)]
        for kind in self.variable:
            sizes[self.number_of[VARIABLE[kind][1]]] *= 2
        apart = {_CHECKSUM, *(VARIABLE[kind][0] for kind in self.variable)}
        self.summed = [(n, sizes[n]) for name, n in self.number_of.items() if name not in apart]
        self.checksum = self.number_of[_CHECKSUM]

    def offsets_of(self, kind: int) -> tuple[int, int, int]:
        """Number of a column of `VARIABLE`, of that of its offsets, and bytes of an offset."""
        of_bytes, of_offsets = (self.number_of[name] for name in VARIABLE[kind])
        return of_bytes, of_offsets, self.columns[of_offsets].dtype.itemsize


def _inner_shape(column: Column) -> tuple[int, ...]:
    """Shape of what one image, or one crop, has in a column."""
    if column.name == "crop.flip":
        return ()
    return column.shape[1:] if column.name.startswith(_PER_CROP) else column.shape
