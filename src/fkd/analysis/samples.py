"""Which images and which of their stored crops an analysis looks at, class by class.

A sample is a pure function of a seed and the keys of the images, so the same command looks at the
same crops, and a larger one of the same seed holds a smaller one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkd.checks import require_whole
from fkd.data.crop_sources import rows_of
from fkd.data.joining import class_ids_among, true_classes
from fkd.data.sources import ImageSource
from fkd.errors import ConfigError
from fkd.randomness import Purpose, permutations, stream_keys, uniforms
from fkd.store import LabelStore

ALL_IMAGES = "all images"
"""The only group of images that have no classes."""

_IMAGE, _CROP = 0, 1  # numbers of draws


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """A random sample of stored crops.

    Attributes:
        num_classes: the first so many classes, in the order of their names.
        classes: these classes instead, by name.
        images_per_class: images drawn of each class.
        crops_per_image: stored crops drawn of each image.
        seed: of the draws.
    """

    num_classes: int = 50
    classes: tuple[str, ...] | None = None
    images_per_class: int = 10
    crops_per_image: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_classes", "images_per_class", "crops_per_image"):
            require_whole(1, f"sample.{name}", getattr(self, name))
        require_whole(None, "sample.seed", self.seed)


@dataclass(frozen=True)
class CropSample:
    """m stored crops of each of n images, in the order of their rows.

    Attributes:
        class_names: of the groups of images: classes of the source, or `ALL_IMAGES`.
        rows: of the images, int64 (n,).
        crops: their crop numbers, int64 (n, m).
        groups: positions in `class_names`, int64 (n,).
        truth: the store's id of the true class, int64 (n,); None where it is not known.
        num_unknown: classes with images that the store does not know and that were left out.
    """

    class_names: tuple[str, ...]
    rows: np.ndarray
    crops: np.ndarray
    groups: np.ndarray
    truth: np.ndarray | None
    num_unknown: int = 0

    def __len__(self) -> int:
        return len(self.rows)


def describe_classes(class_names: Sequence[str]) -> str:
    """How many classes a sample has, such as "of 50 classes".

    Example:
        >>> describe_classes(["cat"]), describe_classes([ALL_IMAGES])
        ('of 1 class', 'without classes')
    """
    if tuple(class_names) == (ALL_IMAGES,):
        return "without classes"
    return f"of {len(class_names)} class{'' if len(class_names) == 1 else 'es'}"


def draw_sample(
    images: ImageSource,
    store: LabelStore,
    config: SampleConfig,
    usable: np.ndarray,
    rows: np.ndarray | None = None,
    num_crops: int | None = None,
) -> CropSample:
    """Random crops of random images of some classes.

    Images whose class the store does not know are left out, unless it knows none of the classes;
    then the true class of no image is known.

    Args:
        images: of the store, or some of them.
        store: the labels and records.
        config: how many of what.
        usable: positions of the images that may be drawn, int64 (k,), ascending.
        rows: the row of each image in the store, int64 (n,); by default found by its key.
        num_crops: crops to draw from, the first ones; by default all of the store.

    Raises:
        ConfigError: a wanted class is not there or has no image.
    """
    num_crops = num_crops or store.num_crops
    rows = rows_of(images, store) if rows is None else rows
    own = true_classes(images, None) if images.class_names is not None else None
    ids = class_ids_among(images, store.class_names)
    if own is None or images.class_names is None or ids is None or not (own[usable] >= 0).any():
        if config.classes is not None:
            raise ConfigError(f"sample.classes: {images.root} has no classes; leave it out")
        count = config.num_classes * config.images_per_class
        places = _draw_images(images, usable, count, config.seed)
        crops = _draw_crops(images, places, num_crops, config)
        groups = np.zeros(len(places), np.int64)
        return CropSample((ALL_IMAGES,), rows[places], crops, groups, None)
    present = np.unique(own[usable])
    present = present[present >= 0]
    known = present[ids[present] >= 0]
    chosen = _choose_classes(images.class_names, known if len(known) else present, config)
    drawn = [
        _draw_images(images, usable[own[usable] == c], config.images_per_class, config.seed)
        for c in chosen
    ]
    places = np.sort(np.concatenate(drawn))
    position = {c: i for i, c in enumerate(chosen)}
    return CropSample(
        class_names=tuple(images.class_names[c] for c in chosen),
        rows=rows[places],
        crops=_draw_crops(images, places, num_crops, config),
        groups=np.array([position[c] for c in own[places].tolist()], np.int64),
        truth=ids[own[places]] if len(known) else None,
        num_unknown=len(present) - len(known) if len(known) else 0,
    )


def _choose_classes(
    names: Sequence[str], candidates: np.ndarray, config: SampleConfig
) -> list[int]:
    """Ids of the classes to look at, of those that have images.

    Raises:
        ConfigError: a wanted class is not among them.
    """
    ids: list[int] = candidates.tolist()
    if config.classes is None:
        return ids[: config.num_classes]
    by_name = {names[c]: c for c in ids}
    missing = [name for name in config.classes if name not in by_name]
    if missing:
        raise ConfigError(
            f"sample.classes: there are no labeled images of a class {missing[0]!r} that the store "
            f"knows; there are {len(by_name)} such classes, e.g. {', '.join(list(by_name)[:3])}"
        )
    return sorted({by_name[name] for name in config.classes})


def _draw_images(images: ImageSource, candidates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Up to `count` random ones of these positions, ascending."""
    streams = stream_keys(seed, [images.key(i) for i in candidates.tolist()])
    draws = uniforms(streams, Purpose.PROBE, _IMAGE, 1)[:, 0]
    order = np.argsort(draws, kind="stable")[:count]
    drawn: np.ndarray = np.sort(candidates[order])
    return drawn


def _draw_crops(
    images: ImageSource, places: np.ndarray, num_crops: int, config: SampleConfig
) -> np.ndarray:
    """Distinct random crop numbers of each image, ascending, int64 (n, m)."""
    streams = stream_keys(config.seed, [images.key(i) for i in places.tolist()])
    orders = permutations(streams, Purpose.PROBE, _CROP, num_crops)
    drawn: np.ndarray = np.sort(orders[:, : config.crops_per_image], axis=1)
    return drawn
