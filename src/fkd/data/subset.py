"""A part of a source: the images that `fkd label --max_images` labels, and finds again in training.

The images are spread evenly over the source in the order of its keys, hence over its class folders.
A store of a part says so (`max_images` in its config); only then is a source with more images than
the store taken for what was labeled.
"""

from collections.abc import Sequence

import numpy as np

from fkd.data.class_sets import is_multi_label, labels_of
from fkd.data.sources import ImageSource, remarks_of
from fkd.store import LabelStore

MEMBER = "max_images"  # of a store's config


class SubsetSource:
    """Some images of a source, in its order.

    Attributes:
        root: where the images are.
        class_names: all classes of the source, also those without an image here.
        remarks: those of the source.
        classes_are_numbers: whether its classes are ids (`fkd.data.numbered`).
        multi_label: whether its images have several classes each.

    Args:
        whole: the source.
        positions: of the images in it, ascending.
    """

    def __init__(self, whole: ImageSource, positions: Sequence[int]) -> None:
        self.root = whole.root
        self.class_names = whole.class_names
        self.remarks = remarks_of(whole)
        self.classes_are_numbers = bool(getattr(whole, "classes_are_numbers", False))
        self.multi_label = is_multi_label(whole)
        self._whole = whole
        self._positions = list(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def key(self, i: int) -> bytes:
        """The identity of image `i`."""
        return self._whole.key(self._positions[i])

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none."""
        return self._whole.label(self._positions[i])

    def labels(self, i: int) -> np.ndarray:
        """All classes of image `i`, int64 (n,)."""
        return labels_of(self._whole, self._positions[i])

    def name(self, i: int) -> str:
        """What messages call image `i`."""
        return self._whole.name(self._positions[i])

    def read(self, i: int) -> bytes:
        """The encoded image `i`; raises ImageError."""
        return self._whole.read(self._positions[i])


def spread(source: ImageSource, max_images: int | None) -> ImageSource:
    """At most so many images of a source, spread evenly over it."""
    if max_images is None or max_images >= len(source):
        return source
    positions = np.arange(max_images) * len(source) // max_images
    return SubsetSource(source, positions.tolist())


def labeled_part(source: ImageSource, store: LabelStore) -> ImageSource:
    """The images of a source that a store of a part has; the source itself for any other store.

    Images that the store has and the source lacks are left to the comparison that follows.
    """
    if MEMBER not in store.config or len(source) <= len(store):
        return source
    known = set(store.keys())
    return SubsetSource(source, [i for i in range(len(source)) if source.key(i) in known])
