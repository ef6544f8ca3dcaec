"""Labels of crops as another program has written them, and as a store takes them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fkd.errors import FormatError
from fkd.labels.codecs import Codec
from fkd.labels.encoded import Encoded

_ABOVE_ONE = 1e-3  # sums of half floats exceed 1 by rounding


@dataclass(frozen=True)
class ForeignCrops:
    """The crops of one image, from one file.

    Attributes:
        path: the file, for messages.
        boxes: top, left, height, width in pixels, int64 (M, 4), for an image of this height and
            width; raises FormatError where the boxes do not lie in such an image.
        flip: bool (M,).
        codec: how the labels are compressed.
        label: of each crop: ids (M, K), values (M, V).
        is_half: whether boxes or values were rounded to half floats.
    """

    path: str
    boxes: Callable[[tuple[int, int]], np.ndarray]
    flip: np.ndarray
    codec: Codec
    label: Encoded
    is_half: bool

    def __len__(self) -> int:
        return len(self.flip)


def require_classes(ids: np.ndarray, num_classes: int, path: str) -> np.ndarray:
    """Class ids (M, K), of any kind of number, as int64.

    Raises:
        FormatError: one is no whole number in [0, num_classes), or comes twice in a crop.
    """
    if not ((ids >= 0) & (ids < num_classes) & (ids == np.floor(ids))).all():  # False for NaN
        raise FormatError(
            f"{path}: a class id is no whole number from 0 to {num_classes - 1}; name the classes "
            "of these labels by --classes"
        )
    index = ids.astype(np.int64)
    if (np.diff(np.sort(index, axis=1), axis=1) == 0).any():
        raise FormatError(f"{path}: a crop names a class twice")
    return index


def require_probabilities(values: np.ndarray, path: str) -> np.ndarray:
    """Probabilities (M, V) as float32.

    Raises:
        FormatError: one is outside [0, 1], or those of a crop have a sum above 1.
    """
    values = values.astype(np.float32)
    sound = (values >= 0) & (values <= 1 + _ABOVE_ONE)  # False for NaN
    if not sound.all() or not (values.sum(1) <= 1 + _ABOVE_ONE).all():
        raise FormatError(f"{path}: the values of a crop are no probabilities of classes")
    return values.clip(max=1.0)


def largest_first(ids: np.ndarray, values: np.ndarray) -> Encoded:
    """Kept classes (M, K) in the order in which codecs have them: ties to the lower class id."""
    order = np.lexsort((ids, -values))
    return Encoded(
        np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)
    )


def require_inside(boxes: np.ndarray, size: tuple[int, int], path: str) -> np.ndarray:
    """Crop boxes (M, 4) of an image of this height and width, as they are.

    Raises:
        FormatError: one has no pixels, or exceeds the image.
    """
    top, left, height, width = boxes.T
    fits = (top >= 0) & (left >= 0) & (height > 0) & (width > 0)
    fits &= (top + height <= size[0]) & (left + width <= size[1])
    if not fits.all():
        box = boxes[np.flatnonzero(~fits)[0]].tolist()
        raise FormatError(
            f"{path}: the crop box {box} (top, left, height, width) does not fit its image of "
            f"{size[0]}x{size[1]} pixels; these labels belong to another file"
        )
    return boxes
