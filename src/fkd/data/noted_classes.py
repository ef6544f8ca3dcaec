"""Classes that text files name, one per image or several: numbers or names, and what they mean.

Files beside the images of archives and the lines of lists say them alike.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fkd.data.class_ids import require_class_ids
from fkd.data.class_sets import ClassSets, refuse_zeros_and_ones
from fkd.errors import ConfigError
from fkd.userfiles import read_text

NAMES_FILES = ("classnames.txt", "classes.txt")
"""What the names of numbered classes may be called, beside the images."""

NUMBER = re.compile(r"-?[0-9]{1,15}")
_DECIMAL = re.compile(
    r"[-+]?[0-9]*\.[0-9]+|[-+]?[0-9]+\.|[-+]?[0-9.]+e[-+]?[0-9]+|nan", re.IGNORECASE
)
_NUMBERS = re.compile(r"[0-9]{1,15}([\s,]+[0-9]{1,15})+")
_SHOWN = 3

Noted: TypeAlias = int | str | list[int | str] | None
"""What is said of an image: a class, several, or nothing."""


@dataclass(frozen=True)
class NumberedClasses:
    """The classes of n images.

    Attributes:
        names: in the order of the labels; None where there are no classes.
        labels: the class of each image, int32 (n,), -1 for none or where images have several.
        sets: all classes of each image.
        multi_label: whether images have several classes each, or none.
        are_ids: whether the classes were given as numbers.
    """

    names: list[str] | None
    labels: np.ndarray
    sets: ClassSets
    multi_label: bool
    are_ids: bool


def number_noted(
    noted: Sequence[Noted], otherwise: Sequence[str | None], folder: str, root: str
) -> NumberedClasses:
    """Number the classes of images.

    Where any image has several, all of them are taken for images with several classes or none.

    Args:
        noted: what is said of each image.
        otherwise: its class where nothing is said and images have one class each.
        folder: where a file may have the names of numbered classes.
        root: what holds the images, for messages.

    Raises:
        ConfigError: some are numbers and others names, or a number is no class id.
    """
    multi_label = any(isinstance(value, list) for value in noted)
    sets = [
        _as_list(value, None if multi_label else instead)
        for value, instead in zip(noted, otherwise, strict=True)
    ]
    flat = [value for classes in sets for value in classes]
    names, labels = number_classes(flat, folder, root)
    parts = np.split(labels, np.cumsum([len(classes) for classes in sets])[:-1])
    if multi_label and not any(isinstance(value, str) for value in flat):
        refuse_zeros_and_ones(parts, f"images.root: {root}")
    return NumberedClasses(
        names,
        np.full(len(sets), -1, np.int32) if multi_label else labels,
        ClassSets(part[part >= 0] for part in parts),
        multi_label,
        any(isinstance(value, int) for value in flat),
    )


def _as_list(noted: Noted, otherwise: str | None) -> list[int | str | None]:
    """One class or several as a list; None in it is no class."""
    if isinstance(noted, list):
        return [*noted]
    return [otherwise if noted is None else noted]


def split_classes(text: str) -> str | list[str]:
    """The text of a .cls file: one class, or several numbers, or one class on each of its lines."""
    if _NUMBERS.fullmatch(text):
        return re.split(r"[\s,]+", text)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines if len(lines) > 1 else text


def class_list(values: list[Any], where: str = "") -> list[int | str] | None:
    """The classes in a list; None where it holds something else, such as boxes.

    Raises:
        ConfigError: it holds classes, and something else besides.
    """
    others = [value for value in values if not _is_class(value)]
    if others and len(others) < len(values):
        raise ConfigError(
            f"images.root: a list of classes in {where} holds {others[0]!r}, which is neither the "
            "number nor the name of one; leave it out, or write what it means"
        )
    if others:
        return None
    return [
        int(value) if isinstance(value, int) or NUMBER.fullmatch(value) else value
        for value in values
    ]


def _is_class(value: Any) -> bool:
    """Whether an item of a list may be a class: a whole number or a name."""
    return type(value) is int or (isinstance(value, str) and value != "")


def number_classes(
    classes: Sequence[int | str | None], folder: str, root: str
) -> tuple[list[str] | None, np.ndarray]:
    """Names of all classes, and the label of each image, int32; None where there are none.

    Args:
        classes: the number or the name of the class of each image, None for none.
        folder: where a file may have the names of numbered classes.
        root: what holds the images, for messages.

    Raises:
        ConfigError: some are numbers and others names, all are decimal numbers, or a number is no
            class id.
    """
    numbers = {value for value in classes if isinstance(value, int)}
    texts = {value for value in classes if isinstance(value, str)}
    if not numbers and not texts:
        return None, np.full(len(classes), -1, np.int32)
    if numbers and texts:
        some = ", ".join(sorted(texts)[:_SHOWN])
        raise ConfigError(
            f"images.root: some images of {root} have a number as class, others a name ({some}); "
            "write all of them alike"
        )
    if texts:
        _refuse_decimals(texts, root)
        names = sorted(texts, key=os.fsencode)
        ids = {name: i for i, name in enumerate(names)}
        labels = [ids[value] if isinstance(value, str) else -1 for value in classes]
        return names, np.array(labels, np.int32)
    named = _class_names_beside(folder)
    low, high = min(numbers), max(numbers)
    require_class_ids(low, high, num_images=len(classes), names=named, where=f"images.root: {root}")
    labels = [value if isinstance(value, int) else -1 for value in classes]
    return named or [str(i) for i in range(high + 1)], np.array(labels, np.int32)


def _refuse_decimals(names: set[str], root: str) -> None:
    """Refuse class ids as some programs write a column in which a number is missing: 10.0, nan.

    As names they would be sorted as text, which makes other ids of them.

    Raises:
        ConfigError: all of these are decimal numbers.
    """
    if all(_DECIMAL.fullmatch(name) for name in names) and any(
        name.lower() != "nan" for name in names
    ):
        raise ConfigError(
            f"images.root: the classes of {root} are decimal numbers ({min(names)}); write class "
            "ids as whole numbers, and nothing for an image without a class"
        )


def _class_names_beside(folder: str) -> list[str] | None:
    """Names of numbered classes, if a file beside the images has them.

    Raises:
        ConfigError: it cannot be read, or has a blank line that would shift the names after it.
    """
    for name in NAMES_FILES:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            # Not splitlines, for which some characters within a name end a line.
            lines = [line.strip() for line in read_text("images.root", path).rstrip().split("\n")]
            if "" in lines:
                raise ConfigError(
                    f"images.root: line {lines.index('') + 1} of {path} is blank; it has the name "
                    f"of class {lines.index('')}, or remove the line"
                )
            return lines
    return None
