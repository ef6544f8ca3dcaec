"""What the labels of each image say, in three numbers; read chunk by chunk, no image is opened."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fkd.labels.codec_names import PerTeacher
from fkd.labels.summaries import top_class, top_probability
from fkd.labels.targets import SoftTargets
from fkd.store import LabelStore
from fkd.viewing.samples import spread_crops

MOST_CROPS = 32  # of an image, spread over all of its crops, that are looked at
_MOST_IMAGES = 512  # in a chunk
_MOST_NUMBERS = 1 << 23  # of probabilities of a chunk


@dataclass(frozen=True)
class LabelStatistics:
    """Of the labels of n images, means over up to `MOST_CROPS` of their crops.

    Attributes:
        entropy: of a label, nats, float64 (n,).
        top_probability: of the most probable class of a crop, float64 (n,).
        top_class: the class with the highest mean probability, int64 (n,).
    """

    entropy: np.ndarray
    top_probability: np.ndarray
    top_class: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "LabelStatistics":
        """Those of some of the images."""
        return LabelStatistics(
            self.entropy[index], self.top_probability[index], self.top_class[index]
        )


def read_statistics(
    store: LabelStore, rows: np.ndarray, advance: Callable[[int], object] = lambda count: None
) -> LabelStatistics:
    """The statistics of these images, which must have labels.

    Args:
        store: of classes.
        rows: (n,).
        advance: called with the number of images of each chunk that is done.

    Raises:
        DamagedStore: a row differs from its checksum.
    """
    numbers = spread_crops(store.num_crops, MOST_CROPS)
    found = LabelStatistics(np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows), np.int64))
    size = _images_at_once(store, len(numbers))
    for first in range(0, len(rows), size):
        chunk = rows[first : first + size]
        crops = np.broadcast_to(numbers, (len(chunk), len(numbers)))
        targets = store.codec.targets(store.read(chunk, crops).label, store.num_classes)
        if isinstance(store.codec, PerTeacher):  # classes of several teachers side by side
            targets = SoftTargets.full(targets.dense(), multi_label=targets.multi_label)
        shape, part = crops.shape, slice(first, first + len(chunk))
        found.entropy[part] = targets.entropy().double().reshape(shape).mean(1).numpy()
        found.top_probability[part] = top_probability(targets).reshape(shape).mean(1).numpy()
        found.top_class[part] = top_class(targets, len(chunk)).numpy()
        advance(len(chunk))
    return found


def _images_at_once(store: LabelStore, num_crops: int) -> int:
    """Images in a chunk; the probabilities of all classes are made of labels that are not top-K."""
    sparse = store.codec.num_ids(store.num_classes) > 0 and not isinstance(store.codec, PerTeacher)
    rows_of_classes = 1 if sparse else num_crops
    return max(1, min(_MOST_IMAGES, _MOST_NUMBERS // (store.num_classes * rows_of_classes)))
