"""Which images of a source have labels in a store, and which classes the two share."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fkd.data.class_sets import is_multi_label, labels_of
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImageSource, fingerprint
from fkd.data.subset import is_named_part
from fkd.errors import ConfigError
from fkd.store import LabelStore, join_images
from fkd.store.canonical import printable

_WAY_OUT = (
    "use the images that were labeled, or only those that are there: add --allow_missing_images "
    "(in Python allow_missing_images=True), or name them by --images.subset FILE"
)
_SHOWN = 3


@dataclass(frozen=True)
class Join:
    """What training needs to know of a source whose images have labels in a store.

    Both are in the order of their keys. The store may have images that the source lacks.

    Attributes:
        rows: of the store, for each image of the source, int64 (len(images),), ascending.
        labeled: positions of the images that have labels, int64 (n,), ascending; the others were
            unreadable when the store was made.
        class_ids: the store's id of each class of the source, int64 (classes,), -1 where it has
            none; None for a source without classes.
        remarks: on images that the source lacks, a sentence each.
    """

    rows: np.ndarray
    labeled: np.ndarray
    class_ids: np.ndarray | None
    remarks: list[str]


def join_store(images: ImageSource, store: LabelStore, *, allow_missing: bool = False) -> Join:
    """Find each image of a source in a store, and make sure that the two have the same images.

    Args:
        images: the source; `labeled_part` has cut it to what the store may have.
        store: the labels.
        allow_missing: whether the source may lack images of the store, as it may anyway where a
            user has named its images.

    Raises:
        StoreMismatch: images are missing, extra or renamed; the message counts and names them.
        ConfigError: the source is not in ascending order of its keys.
    """
    keys = [images.key(i) for i in range(len(images))]
    if any(key >= following for key, following in pairwise(keys)):
        raise ConfigError(f"the keys of {images.root} are not in strictly ascending bytewise order")

    def fingerprint_of(key: bytes) -> tuple[int, int]:
        return fingerprint(images.read(position[key]))

    position = {key: i for i, key in enumerate(keys)}
    is_named = is_named_part(images)
    rows = join_images(
        store,
        keys,
        fingerprint=fingerprint_of,
        allow_missing=allow_missing or is_named,
        way_out=_WAY_OUT,
    )
    labeled = np.flatnonzero(store.labeled(rows))
    remarks = [] if is_named else _describe_missing(images, store, rows)
    return Join(rows, labeled, class_ids_among(images, store.class_names), remarks)


def shared_rows(images: ImageSource, store: LabelStore) -> np.ndarray:
    """The rows of a store whose image is in a source, ascending, int64 (n,).

    For images that `join_store` has compared, or that are compared when they are read.
    """
    if len(images) == store.num_images:
        return store.present_rows
    found = store.find([images.key(i) for i in range(len(images))])
    return found[found >= 0]


def _describe_missing(images: ImageSource, store: LabelStore, rows: np.ndarray) -> list[str]:
    """What to say of images of a store that are not there."""
    missing = np.setdiff1d(store.present_rows, rows, assume_unique=True)
    if not len(missing):
        return []
    more = ", ..." if len(missing) > _SHOWN else ""
    names = ", ".join(map(printable, store.keys(missing[:_SHOWN])))
    return [
        f"{len(missing):,} of the {store.num_images:,} labeled images of {store.path} are not in "
        f"{images.root} and are left out: {names}{more}"
    ]


def map_classes(names: Sequence[str] | None, known: Sequence[str]) -> np.ndarray | None:
    """The id in `known` of each name, int64 (len(names),), -1 for unknown ones; None for None.

    Example:
        >>> map_classes(["dog", "ant", "elk"], ["ant", "cat", "dog"])
        array([ 2,  0, -1])
    """
    if names is None:
        return None
    ids = {name: i for i, name in enumerate(known)}
    return np.array([ids.get(name, -1) for name in names], np.int64)


def class_ids_among(images: ImageSource, known: Sequence[str]) -> np.ndarray | None:
    """The id in `known` of each class of a source, as `map_classes`; None where it has no classes.

    Classes are matched by name, or by number where they are numbers (`fkd.data.numbered`).
    """
    return map_classes(class_names_among(images, known), known)


def describe_differing_classes(
    images: ImageSource, trained: Sequence[str], known: Sequence[str]
) -> str | None:
    """How the classes of validation images differ from those of a run, None if they do not.

    Classes are matched by name, so none is taken for another; but accuracy is then that of fewer
    classes or images than the user may think.

    Args:
        images: the validation images.
        trained: classes of the training images.
        known: classes of the student, often more.
    """
    here = class_names_among(images, known) or []
    sets = [labels_of(images, i) for i in range(len(images))]
    without = sum(len(classes) == 0 for classes in sets)
    counts = np.bincount(np.concatenate(sets), minlength=len(here))
    unknown = set(here) - set(known)
    num_unknown = sum(int(counts[i]) for i, name in enumerate(here) if name in unknown)
    missing = [name for name in trained if name not in set(here)]
    parts = []
    if missing:
        parts.append(f"no images of {len(missing)} classes ({_some(missing)})")
    if unknown:
        parts.append(
            f"{num_unknown:,} {'labels' if is_multi_label(images) else 'images'} of {len(unknown)} "
            f"classes that the student does not know "
            f"({_some(sorted(unknown))}), which are left out"
        )
    if without and not is_multi_label(images):
        parts.append(f"{without:,} images without a class, which are left out")
    return f"val: {images.root} has {', and '.join(parts)}" if parts else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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
