"""Class folders that are called by numbers: names like any other, or the ids of the classes.

Sorted as text, numbers give wrong ids: "0", "1", "10", "100", ... makes class 2 of what is called
"10". So where numbers are ids, the id of a class is the value of its number, never its position
among the names.

    ImageNetV2/0/*.jpeg ... ImageNetV2/999/*.jpeg      all of 0 to 999: ids, taken so by itself
    digits/0/*.png ... digits/9/*.png                  names, unless `images.classes` is by_number
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fkd.data.class_ids import require_class_ids
from fkd.data.class_sets import is_multi_label, labels_of
from fkd.data.imagenet import wordnet_ids
from fkd.errors import ConfigError

if TYPE_CHECKING:
    from fkd.data.sources import ImageSource

Naming = Literal["auto", "by_name", "by_number"]

_NUMBER = re.compile(r"[0-9]+")
_IMAGENET_CLASSES = 1000
_MOST_DIGITS = 18  # longer ones are no class ids, and do not fit into 64 bits


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """The values of names that are whole numbers in plain digits; None if one is something else.

    Example:
        >>> numbers_of(["0", "10", "007"]), numbers_of(["1", "cat"])
        ([0, 10, 7], None)
    """
    if not all(_NUMBER.fullmatch(name) and len(name) <= _MOST_DIGITS for name in names):
        return None
    return [int(name) for name in names]


def are_imagenet_ids(names: Sequence[str]) -> bool:
    """Whether names are the numbers 0 to 999, each once: the folders of ImageNetV2."""
    return len(names) == _IMAGENET_CLASSES and sorted(numbers_of(names) or []) == list(
        range(_IMAGENET_CLASSES)
    )


def ids_by_number(
    names: Sequence[str], *, num_images: int, labels_are_ids: bool, root: str
) -> tuple[list[str], np.ndarray]:
    """New class names, one for every number from 0, and the new id of each class, int64 (classes,).

    Args:
        names: of the classes, in the order of their labels.
        num_images: in the data set.
        labels_are_ids: whether the labels are numbers by themselves, as in a column of integers; a
            class with any name has its label as number then.
        root: where the images are, for messages.

    Raises:
        ConfigError: a name is no number, too large for a class id, or two mean the same number.
    """
    ids = numbers_of(names)
    if ids is None and labels_are_ids:
        return list(names), np.arange(len(names))
    if ids is None:
        wrong = next(name for name in names if numbers_of([name]) is None)
        raise ConfigError(
            f"images.classes by_number: class {wrong!r} of {root} is no number; rename the folders "
            "to the ids of the classes, or use by_name"
        )
    owner: dict[int, str] = {}
    for name, number in zip(names, ids, strict=True):
        if number in owner:
            raise ConfigError(
                f"images.classes by_number: {owner[number]!r} and {name!r} of {root} are the same "
                "number; join the two folders"
            )
        owner[number] = name
    where = f"images.classes by_number: {root}"
    require_class_ids(0, max(ids), num_images=num_images, names=None, where=where)
    return [str(number) for number in range(max(ids) + 1)], np.array(ids, np.int64)


def names_by_number(count: int, known: Sequence[str]) -> list[str]:
    """What the classes 0 to count - 1 are called among known classes.

    Class n is the n-th known one. Where the known ones are themselves called by numbers, it is the
    one with this number, at whatever position; and where 1,000 classes meet WordNet ids, it is the
    n-th of ImageNet. One that does not exist keeps its number as name.

    Example:
        >>> names_by_number(3, ["ant", "bee"]), names_by_number(3, ["0", "10", "2"])
        (['ant', 'bee', '2'], ['0', '1', '2'])
    """
    values = numbers_of(known)
    if values is not None:
        name_of = dict(zip(values, known, strict=True))
        return [name_of.get(number, str(number)) for number in range(count)]
    if count == _IMAGENET_CLASSES and not set(wordnet_ids()).isdisjoint(known):
        return list(wordnet_ids())
    return [known[n] if n < len(known) else str(n) for n in range(count)]


class NumberedSource:
    """The images of a source whose classes are ids, by their numbers (`fkd.data.numbered`).

    Attributes:
        root: where the images are.
        class_names: "0", "1", ... up to the largest number, also those without an image; the names
            that the source has, where its labels are numbers by themselves.
        remarks: those of the source, and without a request one on the numbers.
        multi_label: whether its images have several classes each.

    Args:
        whole: the source, which has classes.
        on_request: whether the user has said that they are ids.

    Raises:
        ConfigError: as `ids_by_number`.
    """

    classes_are_numbers = True

    def __init__(self, whole: "ImageSource", *, on_request: bool) -> None:
        self.root = whole.root
        names, self._ids = ids_by_number(
            whole.class_names or [],
            num_images=len(whole),
            labels_are_ids=bool(getattr(whole, "labels_are_ids", False)),
            root=whole.root,
        )
        self.class_names: list[str] | None = names
        self.remarks = list(getattr(whole, "remarks", ()))
        if not on_request:
            self.remarks.append(
                f"the classes of {whole.root} are numbers and are taken for class ids "
                f"(0 to {len(names) - 1}); images.classes by_name takes them for names"
            )
        self.multi_label = is_multi_label(whole)
        self._whole = whole

    def __len__(self) -> int:
        return len(self._whole)

    def __repr__(self) -> str:
        return f"NumberedSource({self._whole!r})"

    def key(self, i: int) -> bytes:
        """The identity of image `i`."""
        return self._whole.key(i)

    def label(self, i: int) -> int:
        """The number of the class of image `i`, -1 for none."""
        label = self._whole.label(i)
        return label if label < 0 else int(self._ids[label])

    def labels(self, i: int) -> np.ndarray:
        """The numbers of all classes of image `i`, int64 (n,)."""
        numbers: np.ndarray = self._ids[labels_of(self._whole, i)]
        return numbers

    def name(self, i: int) -> str:
        """What messages call image `i`."""
        return self._whole.name(i)

    def read(self, i: int) -> bytes:
        """The encoded image `i`; raises ImageError."""
        return self._whole.read(i)


def class_names_among(source: "ImageSource", known: Sequence[str]) -> list[str] | None:
    """What the classes of a source are called among known ones; None for images without classes.

    These are its own names, but for classes that are numbers: see `names_by_number`.
    """
    names = source.class_names
    if names is None or not getattr(source, "classes_are_numbers", False):
        return names
    return names_by_number(len(names), known)
