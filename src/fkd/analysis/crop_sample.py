"""The crops on which teachers and stores are compared: a random sample of images, some of each.

The crops are those of the first store; without one, they are drawn as `fkd label` draws them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.identity import require_labeled_file
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImageSource, load
from fkd.errors import ConfigError, ImageError
from fkd.models.classes import match_known_classes
from fkd.randomness import Purpose, permutations, stream_key
from fkd.store import LabelStore

_STREAM = b"analyze teachers"  # names the random stream that chooses images


@dataclass(frozen=True)
class CropSample:
    """n images, and the same number m of crops of each.

    Attributes:
        source: all images; None where there are only stores.
        keys: of the chosen images.
        positions: of them in the source; empty where there is none.
        numbers: of their crops, int64 (m,).
        records: where the crops lie, of each image (m,).
        unreadable: names of images that were passed over, as they cannot be read.
    """

    source: ImageSource | None
    keys: list[bytes]
    positions: list[int]
    numbers: np.ndarray
    records: list[CropRecords]
    unreadable: list[str]

    def truth(self, class_names: Sequence[str]) -> Tensor:
        """The position of the true class of each image among these, int64 (n,), -1 if unknown."""
        names = None if self.source is None else class_names_among(self.source, class_names)
        if self.source is None or names is None:
            return torch.full((len(self.keys),), -1)
        ids = match_known_classes(names, class_names)
        labels = [self.source.label(i) for i in self.positions]
        return torch.tensor([-1 if label < 0 else ids[label] for label in labels])


def draw_sample(
    source: ImageSource | None,
    stores: Sequence[LabelStore],
    *,
    num_images: int,
    num_crops: int,
    crops: CropConfig,
    seed: int,
) -> CropSample:
    """Choose images that all stores have, and their crops.

    Args:
        source: the images; None where there are only stores.
        stores: of some of these images.
        num_images: at most so many.
        num_crops: of each; at most as many as every store has.
        crops: how crops are drawn where there is no store.
        seed: chooses the images.

    Raises:
        ConfigError: there is no such image.
        CropMismatch: an image is not the one that the first store labeled.
    """
    keys = [source.key(i) for i in range(len(source))] if source is not None else stores[0].keys()
    stored = min([num_crops, *(store.num_crops for store in stores)])
    numbers = np.arange(stored)
    chosen: list[tuple[int, CropRecords]] = []
    unreadable = []
    for i in permutations(stream_key(seed, _STREAM), Purpose.PROBE, 0, len(keys)).tolist():
        if len(chosen) == num_images:
            break
        if not all(
            keys[i] in store and store.labeled(store.rows([keys[i]]))[0] for store in stores
        ):
            continue
        try:
            chosen.append((i, _records(source, stores, i, keys[i], numbers, crops)))
        except ImageError:
            unreadable.append("" if source is None else source.name(i))
    if not chosen:
        raise ConfigError(
            "images.root: no readable image is in all of the stores; use images and stores that "
            "belong together"
        )
    chosen.sort(key=lambda each: each[0])
    return CropSample(
        source,
        [keys[i] for i, _ in chosen],
        [] if source is None else [i for i, _ in chosen],
        numbers,
        [records for _, records in chosen],
        unreadable,
    )


def same_crops(store: LabelStore, sample: CropSample) -> bool:
    """Whether a store has exactly the crops of a sample."""
    read = store.read(store.rows(sample.keys), _numbers(sample))
    return all(
        np.array_equal(read.records[j].box, records.box)
        and np.array_equal(read.records[j].flip, records.flip)
        and read.records[j].extra.keys() == records.extra.keys()
        and all(np.array_equal(read.records[j].extra[n], a) for n, a in records.extra.items())
        for j, records in enumerate(sample.records)
    )


def stored_labels(store: LabelStore, sample: CropSample) -> Tensor:
    """What a store says of its crops of these numbers, float32 (n * m, its classes)."""
    read = store.read(store.rows(sample.keys), _numbers(sample))
    return store.codec.targets(read.label, store.num_classes).dense()


def _numbers(sample: CropSample) -> np.ndarray:
    return np.broadcast_to(sample.numbers, (len(sample.keys), len(sample.numbers)))


def _records(
    source: ImageSource | None,
    stores: Sequence[LabelStore],
    i: int,
    key: bytes,
    numbers: np.ndarray,
    crops: CropConfig,
) -> CropRecords:
    """The crops of an image, which is looked at if it is there."""
    if stores:
        read = stores[0].read(stores[0].rows([key]), numbers[None])
        if source is not None:
            require_labeled_file(read.images, 0, load(source, i), source.name(i))
        return read.records[0]
    assert source is not None  # there is a store or there are images
    loaded = load(source, i)
    return sample_crops(crops, loaded.content_key, loaded.size, numbers)
