"""The classes of images in Parquet files: labels of any type that can mean one, and their names."""

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from fkd.data.class_ids import require_class_ids
from fkd.data.class_sets import ClassSets, refuse_zeros_and_ones
from fkd.data.parquet_files import DAMAGE, Footer, damage_reason
from fkd.errors import ConfigError

try:
    import pyarrow as pa
    from pyarrow import compute as pc
except ImportError:  # ParquetSource says what to install
    pa = None

_NUMBERS = "numbers"


def read_classes(footers: Sequence[Footer], column: str) -> tuple[list[str] | None, np.ndarray]:
    """Class names, None where no image has a label, and the label of every row (int32, -1 for
    none).

    Raises:
        ConfigError: the column holds no classes; files name different classes, or none for a label.
    """
    values = [_read_column(footer, column) for footer in footers]
    return _classes_of(footers, column, values)


def read_class_sets(footers: Sequence[Footer], column: str) -> tuple[list[str] | None, ClassSets]:
    """Class names as `read_classes`, and the classes of every row of a column of lists.

    A list that is null or empty, and a label of -1, mean no class.

    Raises:
        ConfigError: as `read_classes`.
    """
    values = [_read_column(footer, column) for footer in footers]
    values = [
        part.cast(pa.list_(pa.null())) if pa.types.is_null(part.type) else part for part in values
    ]
    flat = [part.combine_chunks().flatten() for part in values]
    names, labels = _classes_of(footers, column, flat)
    counts = [pc.list_value_length(part).fill_null(0).to_numpy() for part in values]
    ends = np.cumsum(np.concatenate(counts))[:-1]
    lists = np.split(labels, ends)
    if not any(_is_text(part.type) for part in flat):
        where = f"images.label_column: column {column!r} of {footers[0].name}"
        refuse_zeros_and_ones(lists, where)
    return names, ClassSets(labels_of[labels_of >= 0] for labels_of in lists)


def holds_lists(footers: Sequence[Footer], column: str) -> bool:
    """Whether the column holds lists of classes.

    Raises:
        ConfigError: in some files only.
    """
    known = [footer for footer in footers if not pa.types.is_null(_kind(footer, column))]
    of_lists = {_is_list(_kind(footer, column)): footer for footer in known}
    if len(of_lists) > 1:
        raise ConfigError(
            f"images.label_column: column {column!r} of {of_lists[True].name} holds lists of "
            f"classes and that of {of_lists[False].name} does not; keep one data set in one folder"
        )
    return True in of_lists


def _kind(footer: Footer, column: str) -> Any:
    return footer.schema.field(column).type


def _is_list(kind: Any) -> bool:
    return any(
        (pa.types.is_list(kind), pa.types.is_large_list(kind), pa.types.is_fixed_size_list(kind))
    )


def _classes_of(
    footers: Sequence[Footer], column: str, values: Sequence[Any]
) -> tuple[list[str] | None, np.ndarray]:
    """Class names, and the label of every value of the files."""
    names = _same_names(footers, column)
    kinds = sorted({_kind_of(part.type) for part in values if not pa.types.is_null(part.type)})
    if len(kinds) > 1:
        raise ConfigError(
            f"images.label_column: column {column!r} holds {kinds[1]} in some files and {kinds[0]} "
            f"in others ({footers[0].name} ...); keep one data set in one folder"
        )
    if kinds and kinds[0] != _NUMBERS:
        texts = [text for part in values for text in part.cast("string").to_pylist()]
        return _text_classes(texts, f"images.label_column: column {column!r} of {footers[0].name}")
    num_images = sum(footer.num_rows for footer in footers)
    labels = []
    for part, footer in zip(values, footers, strict=True):
        limits = _limits(part)
        where = f"images.label_column: column {column!r} of {footer.name}"
        require_class_ids(*limits, num_images=num_images, names=names, where=where)
        labels.append(part.cast(pa.int64()).fill_null(-1).to_numpy())
    every = np.concatenate(labels)
    largest = int(every.max(initial=-1))
    if names is None and largest >= 0:
        names = [str(i) for i in range(largest + 1)]
    return names, every.astype(np.int32)


def holds_numbers(footers: Sequence[Footer], column: str) -> bool:
    """Whether the labels in the files are integers, so that they have an order of their own."""
    kinds = [_kind(footer, column) for footer in footers]
    kinds = [kind.value_type if _is_list(kind) else kind for kind in kinds]
    values = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    return any(pa.types.is_integer(kind) for kind in values)


def _read_column(footer: Footer, column: str) -> Any:
    """The labels of a file, without the encoding as a dictionary."""
    try:
        values = footer.column(column)
        values.validate(full=True)
        if len(values) != footer.num_rows:
            raise ValueError(f"it has {len(values)} labels of {footer.num_rows} images")
        kind = values.type
        if pa.types.is_dictionary(kind):
            values = values.cast(kind.value_type)
    except (*DAMAGE, pa.ArrowException) as error:
        raise ConfigError(
            f"images.root: column {column!r} of {footer.name} cannot be read "
            f"({damage_reason(error)}); restore the file"
        ) from error
    is_list = _is_list(values.type)
    kind = values.type.value_type if is_list else values.type
    truths = is_list and pa.types.is_boolean(kind)  # of each class, not classes
    if truths or not (_is_text(kind) or pa.types.is_integer(kind) or kind == pa.null()):
        raise ConfigError(
            f"images.label_column: column {column!r} of {footer.name} holds {kind}, not classes; "
            "name a column of integers or text (or of lists of these), or null for images without "
            "labels"
        )
    return values


def _is_text(kind: Any) -> bool:
    """Whether the values of a column are the names of classes: text, or true and false."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_boolean(kind)
    )


def _kind_of(values: Any) -> str:
    """What the values of a column of classes are, by their type."""
    if pa.types.is_boolean(values):
        return "truth values"
    return "text" if _is_text(values) else _NUMBERS


def _text_classes(texts: list[str | None], where: str) -> tuple[list[str] | None, np.ndarray]:
    empty = next((i for i, text in enumerate(texts) if text is not None and not text.strip()), None)
    if empty is not None:
        raise ConfigError(
            f"{where} holds empty text (image {empty}), which names no class; use null for images "
            "without a class"
        )
    names = sorted({text for text in texts if text is not None})
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(names)}
    return names or None, np.array([label_of.get(text, -1) for text in texts], dtype=np.int32)


def _limits(values: Any) -> tuple[int, int]:
    """The smallest and the largest of integers of any width, -1 where there are only nulls."""
    if pa.types.is_null(values.type):
        return -1, -1
    limits = pc.min_max(values).as_py()
    return (-1, -1) if limits["min"] is None else (limits["min"], limits["max"])


def _same_names(footers: Sequence[Footer], column: str) -> list[str] | None:
    """The class names in the metadata, which must be the same in all files."""
    names = [_names_in_metadata(footer.schema, column) for footer in footers]
    for footer, here in zip(footers, names, strict=True):
        if here != names[0]:
            raise ConfigError(
                f"images.root: {footer.name} and {footers[0].name} name different classes "
                f"({_first_difference(here, names[0])}); keep one data set in one folder"
            )
    if names[0] is not None and len(set(names[0])) < len(names[0]):
        raise ConfigError(
            f"images.label_column: {footers[0].name} gives two classes the same name; "
            "correct the metadata"
        )
    return names[0]


def _first_difference(names: list[str] | None, others: list[str] | None) -> str:
    if names is None or others is None:
        return "only one of them names any"
    pairs = zip_longest(names, others)
    label, (name, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"class {label} is {name!r} and {other!r}"


def _names_in_metadata(schema: Any, column: str) -> list[str] | None:
    """The names of a Hugging Face ClassLabel, if the schema carries them.

    Raises:
        ConfigError: it has names that are none.
    """
    try:
        document = json.loads((schema.metadata or {})[b"huggingface"])
        feature = document["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature  # of lists, as once written
        names = feature.get("feature", feature)["names"]
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RecursionError,
    ):  # no such metadata, or not in this form
        return None
    if isinstance(names, dict) and set(names) == {str(i) for i in range(len(names))}:
        names = [names[str(i)] for i in range(len(names))]  # as cards of data sets write them
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise ConfigError(
            f"images.label_column: the names of the classes of column {column!r} in the metadata "
            "are no list of names; correct the metadata"
        )
    return [str(name) for name in names]
