"""A part of a source: images that a user names, or that a store has labels of.

`--images.subset` names images in a text file; those of the store that are not named are then left
out on purpose. `fkd label --max_images` labels images that are spread evenly over the source in the
order of its keys, hence over its class folders. A store of such a part says so (`max_images` in its
config); only then is a source with more images than the store taken for what was labeled. Where a
user has named the images of the source, these must spread to just the images of the store.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fkd.data.class_sets import is_multi_label, labels_of
from fkd.data.subset_files import find_named
from fkd.errors import StoreMismatch
from fkd.store import NOT_HERE, LabelStore, keys_digest

if TYPE_CHECKING:
    from fkd.data.sources import ImageSource

MEMBER = "max_images"  # of a store's config


class SubsetSource:
    """Some images of a source, in its order.

    Attributes:
        root: where the images are.
        class_names: all classes of the source, also those without an image here.
        remarks: those of the source, and on the part.
        classes_are_numbers: whether its classes are ids (`fkd.data.numbered`).
        is_named: whether a user has named the images, so that others are missing on purpose.
        is_spread: whether they were chosen by `spread`.
        multi_label: whether its images have several classes each.

    Args:
        whole: the source.
        positions: of the images in it, ascending.
        remark: on the part; "" for none.
        is_named: whether a user has named them, or the source is such a part by itself.
    """

    def __init__(
        self,
        whole: "ImageSource",
        positions: Sequence[int],
        remark: str = "",
        *,
        is_named: bool = False,
    ) -> None:
        self.root = whole.root
        self.class_names = whole.class_names
        self.remarks = [*getattr(whole, "remarks", ()), *([remark] if remark else [])]
        self.classes_are_numbers = bool(getattr(whole, "classes_are_numbers", False))
        self.is_named = is_named or is_named_part(whole)
        self.is_spread = False
        self.multi_label = is_multi_label(whole)
        self._whole = whole
        self._positions = list(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"SubsetSource({len(self)} of the images of {self._whole!r})"

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


def is_named_part(source: "ImageSource") -> bool:
    """Whether a user has named the images of a source one by one."""
    return bool(getattr(source, "is_named", False))


def named_part(source: "ImageSource", file: str) -> SubsetSource:
    """The images of a source that a text file names; its classes stay those of all images.

    Raises:
        ConfigError: as `find_named`.
    """
    positions, repeated = find_named(source, file)
    part = SubsetSource(source, positions, repeated, is_named=True)
    part.remarks.append(
        f"images.subset: {len(positions):,} of {len(source):,} images of {source.root} are named "
        f"by {file}"
    )
    return part


def spread(source: "ImageSource", max_images: int | None) -> "ImageSource":
    """At most so many images of a source, spread evenly over it."""
    if max_images is None or max_images >= len(source):
        return source
    part = SubsetSource(source, _spread_positions(len(source), max_images))
    part.is_spread = True
    return part


def _spread_positions(num_images: int, max_images: int) -> list[int]:
    return (np.arange(max_images) * num_images // max_images).tolist()


def labeled_part(source: "ImageSource", store: LabelStore) -> "ImageSource":
    """The images of a source that a store may have; the source itself where that is all of them.

    Of a store of a part these are those that it has, and of a partial store those that are not in
    shards that are missing. Images that the store has and the source lacks are left to the
    comparison that follows, and so are others without labels.

    Raises:
        StoreMismatch: there are more images in the place of missing shards than these hold.
    """
    is_of_part = _is_larger(source, store)
    if not (is_of_part or store.is_partial):
        return source
    rows = store.find([source.key(i) for i in range(len(source))])
    num_elsewhere = int((rows == NOT_HERE).sum())
    most = store.num_images_in_all - store.num_images
    if num_elsewhere > most and not is_of_part:
        raise StoreMismatch(
            f"{store.path} does not fit these images: {num_elsewhere:,} of {source.root} would be "
            f"in shards that are not there, which hold {most:,}; use the images that were labeled"
        )
    keep = np.flatnonzero(rows >= 0 if is_of_part else rows != NOT_HERE).tolist()
    if len(keep) == len(source):
        return source
    remark = ""
    if store.is_partial:
        remark = (
            f"{len(keep):,} of {len(source):,} images of {source.root} are in the "
            f"{len(store.committed)} of {store.num_shards} shards of {store.path} that are there; "
            "the others are left out"
        )
    return SubsetSource(source, keep, remark)


def _is_larger(source: "ImageSource", store: LabelStore) -> bool:
    """Whether a store of some images may be of images chosen from a source with more of them."""
    if MEMBER not in store.config or len(source) <= store.num_images_in_all:
        return False
    if not is_named_part(source):
        return True
    chosen = _spread_positions(len(source), store.num_images_in_all)
    return bool(keys_digest([source.key(i) for i in chosen]) == store.config["keys_sha256"])
