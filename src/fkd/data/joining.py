"""Which image of a source has which row of a label store, and which classes they share."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkd.data.sources import ImageSource
from fkd.store import LabelStore


@dataclass(frozen=True)
class Join:
    """A source and a store that fit together.

    Attributes:
        rows: store row of each image, int64 (n,).
        labeled: positions of the images that have labels, int64; the others were unreadable when
            the store was made.
        class_ids: the store's id of each class of the source, int64, -1 where it has none; None
            for a source without classes.
    """

    rows: np.ndarray
    labeled: np.ndarray
    class_ids: np.ndarray | None


def join_store(images: ImageSource, store: LabelStore) -> Join:
    """Match every image with its row, by key.

    Raises:
        StoreMismatch: images are missing, extra or renamed; the message counts and names them.
    """
    keys = [images.key(i) for i in range(len(images))]

    def fingerprint(key: bytes) -> tuple[int, int]:
        data = images.read(position[key])
        return zlib.crc32(data), len(data)

    position = {key: i for i, key in enumerate(keys)}
    store.join(keys, fingerprint=fingerprint)
    rows = np.arange(store.num_images)  # both are in the order of their keys
    return Join(
        rows,
        np.flatnonzero(store.labeled(rows)),
        map_classes(images.class_names, store.class_names),
    )


def map_classes(names: Sequence[str] | None, known: Sequence[str]) -> np.ndarray | None:
    """The id in `known` of each name, int64, -1 for unknown ones; None for None.

    Example:
        >>> map_classes(["dog", "ant", "elk"], ["ant", "cat", "dog"])
        array([ 2,  0, -1])
    """
    if names is None:
        return None
    ids = {name: i for i, name in enumerate(known)}
    return np.array([ids.get(name, -1) for name in names], np.int64)


def true_classes(images: ImageSource, class_ids: np.ndarray | None) -> np.ndarray:
    """The true class of every image, int64 (len(images),), -1 where unknown.

    Args:
        images: the images.
        class_ids: another id for each class of the source, from `map_classes`.
    """
    labels = np.array([images.label(i) for i in range(len(images))], np.int64)
    if class_ids is None:
        return labels
    return np.where(labels < 0, -1, class_ids[labels])
