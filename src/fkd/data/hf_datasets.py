"""Objects of Hugging Face `datasets` as sources: encoded images, in the order of the object.

A selection, a shuffle or a sort of the object is followed; nothing is decoded, and a format
(`with_format("torch")`) changes nothing. The key of an image is its position with at least eight
digits, as for other objects whose images have no names.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fkd.data.class_sets import ClassSets
from fkd.data.parquet_classes import holds_lists, holds_numbers, read_class_sets, read_classes
from fkd.data.parquet_files import Footer, keep_images
from fkd.data.rows import image_bytes
from fkd.errors import ConfigError, ImageError

_LABELS = ("label", "labels")  # preferred where several columns hold classes


@dataclass(frozen=True)
class _Rows(Footer):
    """All rows of an object, as if they were a file."""

    dataset: Any

    @property
    def name(self) -> str:
        return self.file

    def column(self, column: str) -> Any:
        return self.dataset.select_columns([column]).with_format("arrow")[:].column(0)


class DatasetSource:
    """A `datasets.Dataset`, or some of its images.

    The column of images is the one of the feature `Image`, or `image`; that of classes is `label`,
    `labels`, or the one of the feature `ClassLabel`.

    Attributes:
        root: what messages call it.
        class_names: names in the order of the labels, or None without labels.
        labels_are_ids: whether the labels are numbers.
        multi_label: whether an image has a list of classes.

    Args:
        dataset: the object.
        positions: of the images to take, ascending; None for all.

    Raises:
        ConfigError: it has a transform, which would not be applied; it is not clear which column
            has the images or the classes; a label is no class.
    """

    def __init__(self, dataset: Any, positions: Sequence[int] | None = None) -> None:
        if dataset.format["type"] == "custom":
            raise ConfigError(
                "the data set has a transform (set_transform), which would not be applied; give "
                "dataset.with_format(None)"
            )
        self.root = str(dataset.builder_name or type(dataset).__name__)
        image, label = _find_columns(dataset.features)
        schema = dataset.features.arrow_schema
        rows = _Rows(f"the data set {self.root}", self.root, schema, len(dataset), dataset)
        if not len(dataset):
            raise ConfigError(f"{rows.name} has no rows, hence no images; give another")
        keep_images([rows], image, label)
        self._images = dataset.select_columns([image]).with_format("arrow")
        self._positions = np.arange(len(dataset)) if positions is None else np.array(positions)
        self.class_names: list[str] | None = None
        labels = np.full(len(dataset), -1, np.int32)
        self._sets: ClassSets | None = None
        self.multi_label = label is not None and holds_lists([rows], label)
        if label is not None and self.multi_label:
            self.class_names, self._sets = read_class_sets([rows], label)
        elif label is not None:
            self.class_names, labels = read_classes([rows], label)
        self._labels = labels[self._positions]
        self.labels_are_ids = label is not None and holds_numbers([rows], label)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"DatasetSource({self.root!r}, {len(self)} images, {classes})"

    def key(self, i: int) -> bytes:
        """The position in the object, with at least eight digits."""
        digits = max(8, len(str(len(self._images) - 1)))
        return b"%0*d" % (digits, self._positions[i])

    def label(self, i: int) -> int:
        """The class of image `i`, -1 for none or where it has a list."""
        return int(self._labels[i])

    def labels(self, i: int) -> np.ndarray:
        """All classes of image `i`, int64 (n,)."""
        if self._sets is not None:
            return self._sets[int(self._positions[i])]
        return self._labels[i : i + 1][self._labels[i : i + 1] >= 0].astype(np.int64)

    def name(self, i: int) -> str:
        """Data set and row."""
        return f"row {self._positions[i]} of the data set {self.root}"

    def read(self, i: int) -> bytes:
        """The encoded image `i`.

        Raises:
            ImageError: the row holds no image, or the file that it names cannot be read.
        """
        cell = self._images[int(self._positions[i])].column(0)[0].as_py()
        if isinstance(cell, dict) and cell.get("path") and cell.get("bytes") is None:
            cell = {"path": os.path.abspath(cell["path"])}  # from here, as `datasets` reads it
        data = image_bytes(cell, self.name(i))
        if data is None:
            raise ImageError(f"{self.name(i)} has neither the bytes of an image nor a file")
        return data


def dataset_kind(value: Any) -> str | None:
    """The name of the class of `datasets` that an object is of; None for all else."""
    kinds = ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict")
    for base in type(value).__mro__:
        if base.__module__.partition(".")[0] == "datasets" and base.__name__ in kinds:
            return base.__name__
    return None


def from_dataset(value: Any, kind: str, positions: Sequence[int] | None) -> DatasetSource:
    """The images of an object of `datasets`.

    Args:
        value: the object.
        kind: what `dataset_kind` says of it.
        positions: of the images to take, ascending; None for all.

    Raises:
        ConfigError: it is streamed, or holds several splits; or as `DatasetSource`.
    """
    if kind.startswith("Iterable"):
        raise ConfigError(
            f"a streamed {kind} has no images by position; load it without streaming=True, or save "
            "it as files"
        )
    if kind == "DatasetDict":
        raise ConfigError(
            f"a DatasetDict has several splits ({', '.join(value)}); give one, such as "
            f"dataset[{next(iter(value), 'train')!r}]"
        )
    return DatasetSource(value, positions)


def _find_columns(features: Any) -> tuple[str, str | None]:
    """The columns of images and of classes; without the latter, None."""
    from datasets import ClassLabel, Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(images) > 1 and "image" not in images:
        raise ConfigError(
            f"the data set has several columns of images ({', '.join(images)}); keep one, with "
            "dataset.remove_columns"
        )
    image = "image" if "image" in images or not images else images[0]
    mode = getattr(features.get(image), "mode", None)
    if mode not in (None, "RGB"):
        raise ConfigError(
            f"column {image!r} of the data set reads images as {mode}, and labels are of RGB; "
            "cast it with dataset.cast_column to datasets.Image()"
        )
    classes = [
        name
        for name, feature in features.items()
        if isinstance(getattr(feature, "feature", feature), ClassLabel)
    ]
    for name in _LABELS:
        if name in features:
            return image, name
    if len(classes) > 1:
        raise ConfigError(
            f"the data set has several columns of classes ({', '.join(classes)}); call one label, "
            "with dataset.rename_column"
        )
    return image, classes[0] if classes else None
