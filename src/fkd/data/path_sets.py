"""Data sets of torchvision that keep the paths of their images, as files of a folder.

The rule: where torchvision's own code reads the items, one list of the object has a path for each,
alone or in a pair with the class (`samples`, `_image_files` and others). The bytes of the files are
taken as they are, and the key of an image is its path below the data set's root, so that labels of
the folder fit the data set and the other way around.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fkd.data.arrays import refuse_transforms
from fkd.data.class_ids import require_class_ids
from fkd.data.folder import FolderSource
from fkd.errors import ConfigError
from fkd.store.canonical import printable

_PATHS = ("samples", "imgs", "_samples", "_image_files", "_images", "images", "data")
_LABELS = ("_labels", "targets", "labels", "y")
_NAMES = ("wnids", "classes", "categories", "all_categories")
_LOADERS = ("loader", "_loader")


@dataclass(frozen=True)
class Files:
    """The files of a data set, in its order.

    Attributes:
        root: the folder below which they lie.
        paths: of the files.
        labels: their classes, -1 for none.
        class_names: names in the order of the labels, or None.
    """

    root: str
    paths: list[str]
    labels: list[int]
    class_names: list[str] | None

    def source(self, positions: Sequence[int] | None = None) -> FolderSource:
        """These files, or some of them.

        Raises:
            ConfigError: a file comes twice, or a label is no class.
        """
        chosen = range(len(self.paths)) if positions is None else positions
        keys = [self._key(self.paths[i]) for i in chosen]
        require_unique(keys)
        labels = [self.labels[i] for i in chosen]
        names = self.class_names
        if labels:
            low, high = min(labels), max(labels)
            where = f"the data set in {self.root}"
            require_class_ids(low, high, num_images=len(labels), names=names, where=where)
        if names is None and max(self.labels, default=-1) >= 0:
            names = [str(i) for i in range(max(self.labels) + 1)]
        return FolderSource(self.root, keys, labels, names)

    def _key(self, path: str) -> bytes:
        prefix = os.path.join(self.root, "")
        below = path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, self.root)
        return os.fsencode(below.replace(os.sep, "/"))


def require_unique(keys: Sequence[bytes]) -> None:
    """Refuse a data set that has an image twice.

    Raises:
        ConfigError: names the image.
    """
    if len(set(keys)) < len(keys):
        twice = next(a for a, b in pairwise(sorted(keys)) if a == b)
        raise ConfigError(
            f"the data set has {printable(twice)} twice; an image is labeled once, so leave one of "
            "them out"
        )


def files_of(dataset: Any) -> Files | None:
    """The files of a data set of torchvision; None if it keeps no paths.

    Raises:
        ConfigError: it has transforms or a loader, which would be skipped.
    """
    listed = _list_items(dataset) if _reads_as_torchvision(dataset) else None
    if listed is None:
        return None
    refuse_transforms(dataset)
    _refuse_own_loader(dataset)
    paths, labels = listed
    # torchvision's ImageNet keeps the images of a split one folder below `root`.
    root = os.fspath(getattr(dataset, "split_folder", dataset.root))
    if labels is None:
        labels = _find_labels(dataset, len(paths))
    has_classes = any(label >= 0 for label in labels)
    return Files(root, paths, labels, _class_names(dataset) if has_classes else None)


def _reads_as_torchvision(dataset: Any) -> bool:
    """Whether items are read by torchvision's code, or as an ImageFolder has them."""
    method = getattr(type(dataset), "__getitem__", None)
    module = str(getattr(method, "__module__", ""))
    of_torchvision = module.startswith("torchvision.datasets.")
    return of_torchvision or (hasattr(dataset, "samples") and hasattr(dataset, "loader"))


def _list_items(dataset: Any) -> tuple[list[str], list[int] | None] | None:
    """The path of every item, and its class where it stands beside it."""
    by_name = _BY_NAME.get(type(dataset).__name__)
    if by_name is not None:
        return by_name(dataset)
    for name in _PATHS:
        items = getattr(dataset, name, None)
        if not isinstance(items, list | tuple) or len(items) != len(dataset) or not items:
            continue
        if all(isinstance(item, str | os.PathLike) for item in items):
            return [os.fspath(item) for item in items], None
        if all(_is_pair(item) for item in items):
            return [os.fspath(path) for path, _ in items], [_as_label(label) for _, label in items]
    return None


def _is_pair(item: Any) -> bool:
    """Whether an item is (path, class)."""
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return isinstance(item[0], str | os.PathLike) and _is_label(item[1])


def _is_label(value: Any) -> bool:
    return value is None or (hasattr(value, "__index__") and not isinstance(value, bool))


def _as_label(value: Any) -> int:
    return -1 if value is None else int(value)


def _find_labels(dataset: Any, count: int) -> list[int]:
    """The class of every item from a list of its own; -1 where there is none."""
    for name in _LABELS:
        labels = getattr(dataset, name, None)
        if labels is not None and len(labels) == count and all(map(_is_label, labels)):
            return [_as_label(label) for label in labels]
    return [-1] * count


def _class_names(dataset: Any) -> list[str] | None:
    """The names of the classes, in the order of their ids; None where the data set has none."""
    for name in _NAMES:
        names = getattr(dataset, name, None)
        if names is not None:
            return [str(each) for each in names]
    ids = getattr(dataset, "class_to_idx", None)
    return None if ids is None else names_by_id(ids)


def names_by_id(ids: Mapping[str, int]) -> list[str]:
    """Names in the order of their ids; an id without a name is called by its number."""
    names = {int(number): str(name) for name, number in ids.items()}
    return [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)]


def _refuse_own_loader(dataset: Any) -> None:
    from torchvision.datasets.folder import default_loader

    for name in _LOADERS:
        if getattr(dataset, name, None) not in (None, default_loader):
            raise ConfigError(
                f"the data set {type(dataset).__name__} has its own loader, which would be "
                "skipped; build it without"
            )


def _caltech101(dataset: Any) -> tuple[list[str], list[int] | None]:
    pairs = zip(dataset.y, dataset.index, strict=True)
    paths = [f"{dataset.categories[y]}/image_{number:04d}.jpg" for y, number in pairs]
    folder = os.path.join(dataset.root, "101_ObjectCategories")
    return [os.path.join(folder, path) for path in paths], None


def _caltech256(dataset: Any) -> tuple[list[str], list[int] | None]:
    pairs = zip(dataset.y, dataset.index, strict=True)
    paths = [f"{dataset.categories[y]}/{y + 1:03d}_{number:04d}.jpg" for y, number in pairs]
    folder = os.path.join(dataset.root, "256_ObjectCategories")
    return [os.path.join(folder, path) for path in paths], None


def _inaturalist(dataset: Any) -> tuple[list[str], list[int] | None]:
    folders = [os.path.join(dataset.root, name) for name in dataset.all_categories]
    return [os.path.join(folders[y], file) for y, file in dataset.index], [
        y for y, _ in dataset.index
    ]


_Items = tuple[list[str], list[int] | None]
# Data sets that make the path of an item when it is read.
_BY_NAME: dict[str, Callable[[Any], _Items]] = {
    "Caltech101": _caltech101,
    "Caltech256": _caltech256,
    "INaturalist": _inaturalist,
}
