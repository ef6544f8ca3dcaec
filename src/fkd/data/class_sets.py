"""Images with several classes each: what a source says of them, and the classes as one array.

A source of such images has `multi_label = True`, its `label(i)` is -1 (there is no single class),
and `labels(i)` gives all classes of an image, which may be none. Sources without these, such as a
user's own, have one class per image.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from fkd.errors import ConfigError

if TYPE_CHECKING:
    from fkd.data.sources import ImageSource


def is_multi_label(source: Any) -> bool:
    """Whether the images of a source have several classes each, or none."""
    return bool(getattr(source, "multi_label", False))


def labels_of(source: "ImageSource", i: int) -> np.ndarray:
    """The classes of image `i`, int64 (n,), ascending, each once; none where it has none."""
    of_several: Any = getattr(source, "labels", None)
    if is_multi_label(source) and of_several is not None:
        found: np.ndarray = np.unique(np.asarray(of_several(i), np.int64))
        return found
    label = source.label(i)
    return np.array([] if label < 0 else [label], np.int64)


def refuse_several(source: Any) -> None:
    """Refuse images with several classes each, where every image must have one.

    Raises:
        ConfigError: they have.
    """
    if is_multi_label(source):
        raise ConfigError(
            f"the images in {source.root} have several classes each, and one is needed; measure "
            "mean average precision by `fkd eval`, or give images with one class"
        )


def refuse_zeros_and_ones(lists: Sequence[Sequence[int] | np.ndarray], where: str) -> None:
    """Refuse lists that have a zero or a one for each class, where lists are of class ids.

    Read as ids, they would give every image the first two classes. Lists of equal lengths which
    hold zeros and ones only, some of them twice in a list, are taken for such.

    Args:
        lists: of each image.
        where: they are, for the message.

    Raises:
        ConfigError: they are.
    """
    if len({len(ids) for ids in lists}) != 1 or len(lists[0]) < 2:
        return
    table = np.asarray(lists)
    repeats = table.shape[1] > 2 or bool((table[:, 0] == table[:, 1]).any())
    if repeats and bool(((table == 0) | (table == 1)).all()):
        raise ConfigError(
            f"{where} has {table.shape[1]} zeros and ones for each image, one for each class as it "
            "seems; write the class ids of each image instead, such as [0, 2] of [1, 0, 1]"
        )


class ClassSets:
    """The classes of n images; small, whatever the largest number of an image is.

    Args:
        of_images: the class ids of each image, in any order.
    """

    def __init__(self, of_images: Iterable[Sequence[int] | np.ndarray]) -> None:
        sets = [sorted({int(label) for label in labels}) for labels in of_images]
        self._ends = np.cumsum([0, *map(len, sets)])
        self._ids = np.fromiter(chain.from_iterable(sets), np.int64, int(self._ends[-1]))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """The classes of image `i`, int64 (n,), ascending."""
        ids: np.ndarray = self._ids[self._ends[i] : self._ends[i + 1]]
        return ids


def padded(sets: Sequence[np.ndarray]) -> np.ndarray:
    """Class ids of n images, padded with -1, int64 (n, L), L at least 1.

    Example:
        >>> padded([np.array([2, 5]), np.array([], int)])
        array([[ 2,  5],
               [-1, -1]])
    """
    rows = np.full((len(sets), max([1, *map(len, sets)])), -1, np.int64)
    for row, ids in zip(rows, sets, strict=True):
        row[: len(ids)] = ids
    return rows


def known_labels(source: "ImageSource", i: int, class_ids: np.ndarray | None) -> np.ndarray:
    """The classes of image `i` among others, int64 (n,); those that these lack are left out.

    Args:
        source: the images.
        i: position of one.
        class_ids: the other id of each class of the source, -1 for none; None for the same ids.
    """
    labels = labels_of(source, i)
    if class_ids is None:
        return labels
    ids = class_ids[labels]
    known: np.ndarray = ids[ids >= 0]
    return known


def is_multi_hot(labels: Any) -> bool:
    """Whether labels are an array (n, C) of zeros and ones; C is at least 2."""
    shape = getattr(labels, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] < 2:
        return False
    array = np.asarray(labels)
    return bool(((array == 0) | (array == 1)).all())


def lists_of(labels: Sequence[Any]) -> list[list[int]] | None:
    """The classes of each image, where labels are lists or an array of zeros and ones; else None.

    Example:
        >>> lists_of([[0, 2], []]), lists_of(np.array([[1, 0, 1]])), lists_of([0, 1])
        ([[0, 2], []], [[0, 2]], None)
    """
    if is_multi_hot(labels):
        return [np.flatnonzero(row).tolist() for row in np.asarray(labels)]
    if hasattr(labels, "shape") or not all(_is_list(item) for item in labels):
        return None
    return [[*map(int, item)] for item in labels] or None


def _is_list(item: Any) -> bool:
    return isinstance(item, list | tuple | set | np.ndarray) and all(
        isinstance(label, int | np.integer) for label in item
    )
