"""A part of a source: the images that `fkd label --max_images` labels, and finds again in training.

The images are spread evenly over the source in the order of its keys, hence over its class folders.
A store of a part says so (`max_images` in its config); only then is a source with more images than
the store taken for what was labeled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkd.data.sources import ImageSource
from fkd.store import LabelStore

MEMBER = "max_images"  # of a store's config


@dataclass(frozen=True)
class SubsetSource:
    """Some images of a source, in its order.

    Attributes:
        whole: the source.
        positions: of the images in it, ascending.
    """

    whole: ImageSource
    positions: Sequence[int]

    @property
    def root(self) -> str:
        """Where the images are."""
        return self.whole.root

    @property
    def class_names(self) -> list[str] | None:
        """All classes of the source, also those without an image here."""
        return self.whole.class_names

    def __len__(self) -> int:
        return len(self.positions)

    def key(self, i: int) -> bytes:
        """The identity of image `i`."""
        return self.whole.key(self.positions[i])

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none."""
        return self.whole.label(self.positions[i])

    def name(self, i: int) -> str:
        """What messages call image `i`."""
        return self.whole.name(self.positions[i])

    def read(self, i: int) -> bytes:
        """The encoded image `i`; raises ImageError."""
        return self.whole.read(self.positions[i])


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
