"""Images that occur twice: the same file content, or thumbnails that look the same.

A duplicate whose copies are in different classes is a wrong label; one in both the training and the
validation images makes accuracy look better than it is. These come first.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fkd.analysis.thumbnails import (
    SIDE,
    SimilarPairs,
    find_similar,
    is_blank,
    make_thumbnail,
    no_pairs,
)
from fkd.checks import require_in, require_whole
from fkd.data.ahead import look_ahead
from fkd.data.decode import decode_image
from fkd.data.sources import ImageSource, fingerprint
from fkd.errors import ImageError
from fkd.store import LabelStore
from fkd.store.canonical import printable


@dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    """What counts as a duplicate.

    Attributes:
        near: also look for images that look the same; without it, no image is decoded.
        min_similarity: least correlation of two thumbnails that look the same. Of 5.8 million pairs
            of different photographs of clothes, none is above 0.978; copies saved as JPEG of
            quality 30, at a half of the size, or 20 % brighter are at 0.99 and above.
        max_pairs: pairs of such images to list; those of different classes go first.
        num_workers: threads that read and decode images.
    """

    near: bool = True
    min_similarity: float = 0.985
    max_pairs: int = 10_000
    num_workers: int = 2

    def __post_init__(self) -> None:
        require_in("(0, 1]", "min_similarity", self.min_similarity)
        require_whole(1, "max_pairs", self.max_pairs)
        require_whole(1, "num_workers", self.num_workers)


@dataclass(frozen=True)
class ImageRef:
    """One image, for messages and files.

    Attributes:
        part: which images it is of: "images" or "val".
        position: in their source.
        name: what messages call it: printable.
        class_name: its class; None where it has none.
    """

    part: str
    position: int
    name: str
    class_name: str | None


@dataclass(frozen=True)
class Duplicate:
    """Images that are the same, or two that look the same.

    Attributes:
        images: two or more.
        similarity: 1.0 for the same content; else the correlation of their thumbnails.
        identical: whether they have the same content.
    """

    images: tuple[ImageRef, ...]
    similarity: float
    identical: bool

    @property
    def classes_differ(self) -> bool:
        """Whether they are in different classes, as far as these are known."""
        return len({image.class_name for image in self.images} - {None}) > 1

    @property
    def across(self) -> bool:
        """Whether some are training images and others validation images."""
        return len({image.part for image in self.images}) > 1


@dataclass(frozen=True)
class DuplicateReport:
    """What was found among images.

    Attributes:
        num_images: images of each part that were looked at.
        duplicates: those of different classes first, then those across parts; in each group
            identical ones first, then the most similar.
        num_similar: pairs that look the same, which may be more than are listed.
        complete: whether all pairs were looked for.
        unreadable: names of images that could not be read.
        num_blank: images that show nothing, and were compared by their content only.
    """

    num_images: dict[str, int]
    duplicates: list[Duplicate]
    num_similar: int
    complete: bool
    unreadable: list[str]
    num_blank: int


class StoreImages:
    """The images of a store where there is nothing but the store: keys, and no pixels or classes.

    Attributes:
        root: the folder of the store.
        class_names: none; a store does not know the true classes.
    """

    def __init__(self, store: LabelStore) -> None:
        self.root = str(store.path)
        self.class_names: list[str] | None = None
        self._keys = store.keys()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, i: int) -> bytes:
        """The identity of image `i`."""
        return self._keys[i]

    def label(self, i: int) -> int:
        """Unknown: -1."""
        return -1

    def name(self, i: int) -> str:
        """What messages call image `i`."""
        return printable(self._keys[i])

    def read(self, i: int) -> bytes:
        """Refuses: the file is not there."""
        raise ImageError(f"{self.name(i)}: only its label store is there")


@dataclass(frozen=True)
class _Scan:
    """What is known of all images, parts one after the other.

    Attributes:
        images: those that could be read.
        fingerprints: CRC-32 and length of each file.
        thumbnails: uint8 (len(images), 3, 32, 32); empty where none were made.
        unreadable: names of the others.
    """

    images: list[ImageRef]
    fingerprints: list[tuple[int, int]]
    thumbnails: np.ndarray
    unreadable: list[str]


Begin = Callable[[str, int], Callable[[int], None]]
"""(what is done, how many images) to a function that is told of images that were done."""


def find_duplicates(
    parts: dict[str, ImageSource],
    config: DuplicateConfig,
    *,
    store: LabelStore | None = None,
    begin: Begin = lambda what, total: lambda count: None,
) -> DuplicateReport:
    """Find images that occur twice, within and across parts.

    Args:
        parts: names such as "images" and "val" to sources.
        config: what counts.
        store: of the part "images"; saves reading these where only content is compared.
        begin: called before each long task.
    """
    scan = _scan(parts, config, store, begin)
    groups = list(_identical(parts, scan))
    similar, num_blank = no_pairs(), 0
    if config.near and scan.images:
        once = np.ones(len(scan.images), bool)
        once[[i for group in groups for i in group[1:]]] = False
        blank = is_blank(scan.thumbnails)
        num_blank = int(blank.sum())
        similar = _similar(scan, np.flatnonzero(once & ~blank), config, begin)
    duplicates = [Duplicate(tuple(scan.images[i] for i in g), 1.0, True) for g in groups]
    duplicates += [
        Duplicate((scan.images[a], scan.images[b]), float(s), False)
        for a, b, s in zip(similar.first, similar.second, similar.similarity, strict=True)
    ]
    return DuplicateReport(
        {name: len(source) for name, source in parts.items()},
        sorted(duplicates, key=_rank),
        similar.num_found,
        similar.complete,
        scan.unreadable,
        num_blank,
    )


def duplicate_numbers(report: DuplicateReport) -> dict[str, Any]:
    """A report in JSON's types."""
    return {
        "num_images": report.num_images,
        "num_similar_pairs": report.num_similar,
        "complete": report.complete,
        "num_blank": report.num_blank,
        "unreadable": report.unreadable,
        "duplicates": [
            {
                "identical": duplicate.identical,
                "similarity": round(duplicate.similarity, 5),
                "classes_differ": duplicate.classes_differ,
                "across": duplicate.across,
                "images": [
                    {"part": i.part, "name": i.name, "class": i.class_name}
                    for i in duplicate.images
                ],
            }
            for duplicate in report.duplicates
        ],
    }


def _rank(duplicate: Duplicate) -> tuple[Any, ...]:
    return (
        not duplicate.classes_differ,
        not duplicate.across,
        not duplicate.identical,
        -duplicate.similarity,
        duplicate.images[0].name,
    )


def _scan(
    parts: dict[str, ImageSource],
    config: DuplicateConfig,
    store: LabelStore | None,
    begin: Begin,
) -> _Scan:
    """Read all images once; or ask the store, where that is enough."""
    refs, prints, unreadable = [], [], []
    thumbnails: list[np.ndarray] = []
    for part, source in parts.items():
        advance = begin(f"reading {part}", len(source))
        of_store = part == "images" and not config.near
        known_to = store if of_store else None
        for i, (known, thumbnail) in enumerate(_read_all(source, config, known_to)):
            advance(1)
            if known is None:
                unreadable.append(source.name(i))
                continue
            refs.append(_ref(part, source, i))
            prints.append(known)
            thumbnails += [] if thumbnail is None else [thumbnail]
    shape = (0, 3, SIDE, SIDE)
    made = np.stack(thumbnails) if thumbnails else np.empty(shape, np.uint8)
    return _Scan(refs, prints, made, unreadable)


def _read_all(
    source: ImageSource, config: DuplicateConfig, store: LabelStore | None
) -> Iterator[tuple[tuple[int, int] | None, np.ndarray | None]]:
    """Fingerprint and thumbnail of each image; from a store, which has no thumbnails, if given."""
    if store is None:
        read = partial(_read, source, config.near)
        with ThreadPoolExecutor(config.num_workers) as pool:
            yield from look_ahead(pool, read, range(len(source)), 4 * config.num_workers)
        return
    facts = store.images(store.rows([source.key(i) for i in range(len(source))]))
    for crc32, num_bytes, status in zip(facts.crc32, facts.num_bytes, facts.status, strict=True):
        yield (None if status else (int(crc32), int(num_bytes))), None


def _read(
    source: ImageSource, near: bool, i: int
) -> tuple[tuple[int, int] | None, np.ndarray | None]:
    """Fingerprint and thumbnail of an image; None where it cannot be read."""
    try:
        data = source.read(i)
        thumbnail = make_thumbnail(decode_image(data, source.name(i))) if near else None
    except ImageError:
        return None, None
    return fingerprint(data), thumbnail


def _ref(part: str, source: ImageSource, i: int) -> ImageRef:
    names, label = source.class_names, source.label(i)
    class_name = None if names is None or label < 0 else names[label]
    return ImageRef(part, i, printable(source.key(i)), class_name)


def _identical(parts: dict[str, ImageSource], scan: _Scan) -> Iterator[list[int]]:
    """Groups of images of the same content, two or more; a checksum alone may agree by chance."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, known in enumerate(scan.fingerprints):
        alike[known].append(i)
    for group in alike.values():
        if len(group) == 1:
            continue
        same: dict[bytes, list[int]] = defaultdict(list)
        for i in group:
            image = scan.images[i]
            try:
                content = parts[image.part].read(image.position)
            except ImageError:  # there is only the store, whose word is the checksum
                content = b""
            same[hashlib.sha256(content).digest()].append(i)
        yield from (images for images in same.values() if len(images) > 1)


def _similar(
    scan: _Scan, places: np.ndarray, config: DuplicateConfig, begin: Begin
) -> SimilarPairs:
    """Pairs of images at these places that look the same, as positions in the scan."""
    classes: dict[str | None, int] = {None: -1}
    known = np.array(
        [classes.setdefault(scan.images[i].class_name, len(classes)) for i in places], np.int64
    )
    of_part = np.array([scan.images[i].part == "val" for i in places], bool)

    def priority(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        a, b = known[first], known[second]
        differ = (a != b) & (a >= 0) & (b >= 0)
        rank: np.ndarray = 2 * differ + (of_part[first] != of_part[second])
        return rank

    pairs = find_similar(
        scan.thumbnails[places],
        config.min_similarity,
        priority=priority,
        most=config.max_pairs,
        progress=begin("comparing", len(places)),
    )
    return SimilarPairs(
        places[pairs.first],
        places[pairs.second],
        pairs.similarity,
        pairs.num_found,
        pairs.complete,
    )
