"""Reads annotations in the format of COCO: images, boxes, masks and categories.

    {"images":      [{"id": 9, "file_name": "000000000009.jpg", "width": 640, "height": 480}],
     "categories":  [{"id": 90, "name": "toothbrush"}],
     "annotations": [{"id": 1, "image_id": 9, "category_id": 90, "iscrowd": 0, "area": 12.5,
                      "bbox": [left, top, width, height],
                      "segmentation": [[x0, y0, x1, y1, x2, y2, ...], ...]}]}

A crowd (`iscrowd` 1) is an area with many objects; its segmentation is run-length encoded. Ids of
categories may have gaps, as COCO's 80 categories have ids from 1 to 90: inside, the *labels* of a
network are 1 to C, in the order of the ids, and 0 is the background.

Read here rather than by torchvision's CocoDetection, which imports pycocotools and checks nothing:
a wrong entry is named with its file and its place before training begins.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fkd.errors import ConfigError
from fkd.transfer.masks import Segmentation, parse_segmentation
from fkd.userfiles import home_path, os_reason, read_text

_LISTS = ("images", "annotations", "categories")
_SHOWN = 3
_LEAST_SIDE = 0.01  # pixels; less may vanish when an image is resized, which detectors refuse


class Instance(NamedTuple):
    """An object, or a crowd of them.

    Attributes:
        label: its category, 1 to C.
        box: left, top, right, bottom, pixels.
        area: of its mask, pixels; as the file gives it, else that of the box.
        is_crowd: whether it stands for many objects.
        segmentation: what its mask is made from; None where masks are not read.
    """

    label: int
    box: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    segmentation: Segmentation | None


class CocoImage(NamedTuple):
    """An image and what is in it.

    Attributes:
        id: in the file.
        file_name: below the folder of the images.
        height, width: pixels.
        instances: of all categories.
    """

    id: int
    file_name: str
    height: int
    width: int
    instances: tuple[Instance, ...]


class Category(NamedTuple):
    """A kind of object: its id in the file, and its name."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """An annotation file and the folder of its images.

    Attributes:
        path: the file.
        folder: of the images.
        images: in the order of their ids.
        categories: of labels 1, 2, ... C, in the order of their ids.
        num_degenerate: boxes without an area, which were dropped.
        sha256: of the file.
    """

    path: Path
    folder: Path
    images: Sequence[CocoImage]
    categories: Sequence[Category]
    num_degenerate: int
    sha256: str

    @property
    def num_instances(self) -> int:
        """Boxes of single objects."""
        return sum(not one.is_crowd for image in self.images for one in image.instances)

    @property
    def num_crowds(self) -> int:
        """Boxes of crowds."""
        return sum(one.is_crowd for image in self.images for one in image.instances)

    def with_objects(self) -> list[int]:
        """Positions of the images with at least one object that is no crowd."""
        return [
            i
            for i, image in enumerate(self.images)
            if any(not one.is_crowd for one in image.instances)
        ]


def read_coco(
    setting: str,
    file: str,
    folder: str,
    *,
    masks: bool,
    categories: Sequence[Category] | None = None,
) -> CocoSet:
    """The images and objects of an annotation file.

    Args:
        setting: what messages call the option of the file.
        file: in the format of COCO.
        folder: of the images.
        masks: whether segmentations are needed.
        categories: of a network; the file's are matched with them by name. By default the file's.

    Raises:
        ConfigError: the file is not in the format, or an entry of it cannot be right (names both),
            an image is missing, or a category is not among those wanted.
    """
    path = home_path(file)
    text = read_text(setting, path)
    reader = _Reader(setting, path, masks)
    content = reader.parse(text)
    own = reader.categories(content["categories"])
    labels = reader.labels(own, categories)
    images = reader.images(content["images"])
    reader.add_instances(content["annotations"], images, labels)
    coco = CocoSet(
        path=path,
        folder=home_path(folder),
        images=[image.finished() for _, image in sorted(images.items())],
        categories=own if categories is None else categories,
        num_degenerate=reader.num_degenerate,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    _require_files(setting, coco)
    return coco


class _OpenImage(NamedTuple):
    """An image whose instances are being read."""

    image: CocoImage
    instances: list[Instance]

    def finished(self) -> CocoImage:
        return self.image._replace(instances=tuple(self.instances))


class _Reader:
    """Reads the parts of one file; knows its name for messages."""

    def __init__(self, setting: str, path: Path, masks: bool) -> None:
        self._setting = setting
        self._path = path
        self._masks = masks
        self.num_degenerate = 0

    def parse(self, text: str) -> dict[str, list[Any]]:
        """The three lists of the file."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"is not JSON ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict):
            raise self._wrong(f'holds a {type(content).__name__}, not an object with "images"')
        for name in _LISTS:
            if not isinstance(content.get(name), list):
                raise self._wrong(f'has no list "{name}"; it is no file of instances of COCO')
        return content

    def categories(self, entries: Sequence[Any]) -> list[Category]:
        """The categories in the order of their ids."""
        found: dict[int, Category] = {}
        for where, entry in _numbered("categories", entries):
            id_, name = self._members(where, entry, id=_is_whole, name=_is_text)
            if id_ in found:
                raise self._wrong(f"{where} has the id {id_} of another category")
            found[id_] = Category(id_, name)
        names = Counter(category.name for category in found.values())
        if not found:
            raise self._wrong("has no categories")
        if len(names) < len(found):
            twice = next(name for name, count in names.items() if count > 1)
            raise self._wrong(f"has two categories named {twice!r}; rename one")
        return [found[id_] for id_ in sorted(found)]

    def labels(self, own: Sequence[Category], wanted: Sequence[Category] | None) -> dict[int, int]:
        """The label of each id of the file."""
        label_of = {category.name: i for i, category in enumerate(wanted or own, start=1)}
        unknown = [category.name for category in own if category.name not in label_of]
        if unknown:
            raise self._wrong(
                f"has {len(unknown)} categories that the training images lack "
                f"({', '.join(unknown[:_SHOWN])}); categories are matched by name"
            )
        return {category.id: label_of[category.name] for category in own}

    def images(self, entries: Sequence[Any]) -> dict[int, _OpenImage]:
        """The images by id."""
        found: dict[int, _OpenImage] = {}
        for where, entry in _numbered("images", entries):
            id_, name, height, width = self._members(
                where, entry, id=_is_whole, file_name=_is_text, height=_is_size, width=_is_size
            )
            if id_ in found:
                raise self._wrong(f"{where} has the id {id_} of another image")
            found[id_] = _OpenImage(CocoImage(id_, name, height, width, ()), [])
        if not found:
            raise self._wrong("has no images")
        return found

    def add_instances(
        self, entries: Sequence[Any], images: dict[int, _OpenImage], labels: dict[int, int]
    ) -> None:
        """Give every image its objects; boxes without an area are counted and left out."""
        for where, entry in _numbered("annotations", entries):
            image_id, category_id, bbox = self._members(
                where, entry, image_id=_is_whole, category_id=_is_whole, bbox=_is_box
            )
            if image_id not in images:
                raise self._wrong(f"{where} has image_id {image_id}, but no image has that id")
            if category_id not in labels:
                raise self._wrong(
                    f"{where} has category_id {category_id}, but no category has that id"
                )
            image, instances = images[image_id]
            left, top, width, height = (float(number) for number in bbox)
            instance = Instance(
                labels[category_id],
                (left, top, left + width, top + height),
                self._area(where, entry, abs(width * height)),
                self._is_crowd(where, entry),
                self._segmentation(where, entry, image),
            )
            if _has_area(instance.box, image):
                instances.append(instance)
            else:
                self.num_degenerate += 1

    def _area(self, where: str, entry: dict[str, Any], of_box: float) -> float:
        area = entry.get("area", of_box)
        if not _is_number(area) or area < 0:
            raise self._wrong(f"{where} has the area {_shown(area)}, which is no number of pixels")
        return float(area)

    def _is_crowd(self, where: str, entry: dict[str, Any]) -> bool:
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise self._wrong(f"{where} has iscrowd {_shown(crowd)}; it is 0 or 1")
        return bool(crowd)

    def _segmentation(
        self, where: str, entry: dict[str, Any], image: CocoImage
    ) -> Segmentation | None:
        if not self._masks:
            return None
        try:
            return parse_segmentation(entry.get("segmentation"), image.height, image.width)
        except ValueError as error:
            raise self._wrong(f"{where} {error}") from error

    def _members(self, where: str, entry: Any, **checks: Any) -> list[Any]:
        """The wanted members of an entry."""
        if not isinstance(entry, dict):
            raise self._wrong(f"{where} is a {type(entry).__name__}, not an object")
        for name, is_right in checks.items():
            if not is_right(entry.get(name)):
                if name not in entry:
                    raise self._wrong(f"{where} has no {name}")
                raise self._wrong(f"{where} has the {name} {_shown(entry[name])}; {_RULES[name]}")
        return [entry[name] for name in checks]

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self._setting}: {self._path}: {what}")


_RULES = {
    "id": "it is a whole number",
    "image_id": "it is a whole number",
    "category_id": "it is a whole number",
    "name": "it is a text",
    "file_name": "it is the name of a file",
    "height": "it is a number of pixels, at least 1",
    "width": "it is a number of pixels, at least 1",
    "bbox": "it is [left, top, width, height] in pixels",
}


def _numbered(name: str, entries: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each entry and what messages call it, such as "annotations[17] (id 42)"."""
    for number, entry in enumerate(entries):
        known = isinstance(entry, dict) and _is_whole(entry.get("id"))
        yield f"{name}[{number}]" + (f" (id {entry['id']})" if known else ""), entry


def _has_area(box: tuple[float, float, float, float], image: CocoImage) -> bool:
    """Whether a box covers something of its image."""
    left, top, right, bottom = box
    width, height = min(right, image.width) - max(left, 0), min(bottom, image.height) - max(top, 0)
    return width > _LEAST_SIDE and height > _LEAST_SIDE


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _require_files(setting: str, coco: CocoSet) -> None:
    """Refuse images that are not there; a listing of each folder, not a look at every file."""
    names: dict[str, set[str]] = {}
    missing = []
    for image in coco.images:
        folder, name = os.path.split(os.path.join(coco.folder, image.file_name))
        if folder not in names:
            names[folder] = _list(coco, folder)
        if name not in names[folder]:
            missing.append(image.file_name)
    if missing:
        raise ConfigError(
            f"{setting}: {len(missing):,} of the {len(coco.images):,} images that {coco.path} "
            f"lists are not in {coco.folder} (first: {missing[0]}); give the folder of the images, "
            "or an annotation file without them"
        )


def _list(coco: CocoSet, folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError as error:
        if os.path.isdir(coco.folder):
            return set()
        raise ConfigError(
            f"images.root: {coco.folder} does not exist; give the folder of the images"
        ) from error
    except OSError as error:
        raise ConfigError(f"images.root: {folder} cannot be read: {os_reason(error)}") from error
