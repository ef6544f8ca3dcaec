"""Released label maps of ReLabel, one torch file for each image.

    ROOT/n01440764/n01440764_10026.pt    tensor (2, K, rows, columns): logits; class ids, as floats

The authors' code pools a crop's label as if the last two axes were (columns, rows), which may be an
error of the code or say how the files are made: `fkd.labeling.axes` tells it by a teacher.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021) and its released maps; the layout is described
in the authors' repository, naver-ai/relabel_imagenet (issue 8).
"""

from dataclasses import dataclass

import numpy as np

from fkd.errors import FormatError
from fkd.labeling.config import MapDtype
from fkd.labeling.foreign.crops import largest_first, require_classes
from fkd.labeling.foreign.pickles import read_foreign
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import LARGEST_VALUE

SUFFIX = ".pt"
_MAX_SIDE, _MAX_KEPT = 256, 256


@dataclass(frozen=True)
class ForeignMap:
    """A map as it was released: labels of its cells (rows * columns, K), largest logits first."""

    path: str
    label: Encoded
    grid: tuple[int, int]

    @property
    def num_kept(self) -> int:
        """K: classes kept of each cell."""
        assert self.label.ids is not None
        return int(self.label.ids.shape[1])


def read_map(
    data: bytes,
    path: str,
    num_classes: int,
    value_dtype: MapDtype = "f32",
    *,
    swap_xy: bool = False,
) -> ForeignMap:
    """One released map, checked.

    Args:
        data: the file.
        path: of the file, for messages.
        num_classes: C.
        value_dtype: which must hold the logits.
        swap_xy: take the tensor for (2, K, columns, rows).

    Raises:
        FormatError: the file is no tensor (2, K, rows, columns), a class id is no whole number in
            [0, C) or comes twice in a cell, or a logit is not finite or too large.
    """
    tensor = read_foreign(data, path)
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f":
        raise _no_map(path, "it holds something else than a tensor of floats")
    shape = tensor.shape
    if len(shape) != 4 or shape[0] != 2 or not 0 < shape[1] <= _MAX_KEPT:
        raise _no_map(path, f"its tensor has the shape {shape}, not (2, K, rows, columns)")
    if not all(0 < side <= _MAX_SIDE for side in shape[2:]):
        raise _no_map(path, f"it has {shape[2]} x {shape[3]} cells")
    if swap_xy:
        tensor = tensor.transpose(0, 1, 3, 2)
    kept, rows, columns = tensor.shape[1:]
    numbers = tensor.astype(np.float32).reshape(2, kept, rows * columns)
    value, ids = numbers.transpose(0, 2, 1)
    if not (np.abs(value) <= LARGEST_VALUE[value_dtype]).all():  # False for NaN
        raise _no_map(path, f"a logit is not finite, or too large for {value_dtype}")
    label = largest_first(require_classes(ids, num_classes, path), value)
    return ForeignMap(path, label, (rows, columns))


def _no_map(path: str, reason: str) -> FormatError:
    return FormatError(f"{path} is no label map: {reason}; remove it, or get it again")
