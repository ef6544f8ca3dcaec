"""Which crops of each image are kept where a store is made smaller.

    first      crops 0 ... N - 1: as good as a random choice, since crops are drawn independently
    confident  the highest probability of their most probable class
    uncertain  the lowest
    agree      the highest probability of the image's class: that of the highest mean probability
               over all of its crops

Every image keeps equally many crops, in the order in which they were drawn; of equals the first.

Source: LPLD (Xiao and He, NeurIPS 2024), where a random part of the labels does; FerKD (Shen, ICCV
2023), which chooses by the teacher's confidence.
Differs: FerKD compares confidence with thresholds, so that images keep different numbers of crops.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fkd.errors import ConfigError
from fkd.labels.codec_names import PerTeacher
from fkd.labels.summaries import probability_of, top_class, top_probability
from fkd.labels.targets import SoftTargets
from fkd.store.reader import LabelStore

Keep = Literal["first", "confident", "uncertain", "agree"]
_NUMBERS_AT_ONCE = 1 << 22  # of probabilities, where labels have those of all classes


@dataclass(frozen=True)
class CropChoice:
    """The crops of each image that are kept.

    Attributes:
        store: the labels.
        num_crops: N, crops of an image to keep, at most those that are stored.
        keep: the criterion.

    Raises:
        ConfigError: the store holds features, of which no class is probable.
    """

    store: LabelStore
    num_crops: int
    keep: Keep = "first"

    def __post_init__(self) -> None:
        if self.keep != "first" and not self.store.is_of_classes:
            raise ConfigError(
                f"keep: {self.store.path} holds features, which have no probabilities to choose "
                "by; use first"
            )

    @property
    def depends_on_labels(self) -> bool:
        """Whether images keep different crops."""
        return self.keep != "first" and self.num_crops < self.store.num_crops

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the kept crops, ascending, int64 (n, N), of labeled images (n,)."""
        if not self.depends_on_labels:
            return np.broadcast_to(np.arange(self.num_crops), (len(rows), self.num_crops))
        chosen = np.empty((len(rows), self.num_crops), np.int64)
        step = max(1, _NUMBERS_AT_ONCE // (self.store.num_crops * self.store.num_classes))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            order = np.argsort(-self._scores(rows[part]), axis=1, kind="stable")
            chosen[part] = np.sort(order[:, : self.num_crops], axis=1)
        return chosen

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """How much each crop is wanted, float64 (n, M)."""
        store = self.store
        targets = store.codec.targets(store.read(rows).label, store.num_classes)
        if self.keep == "agree":
            classes = top_class(targets, len(rows)).repeat_interleave(store.num_crops)
            scores = probability_of(targets, classes)
        else:
            if isinstance(store.codec, PerTeacher):  # classes of several teachers side by side
                targets = SoftTargets.full(targets.dense())
            scores = top_probability(targets) * (1.0 if self.keep == "confident" else -1.0)
        wanted: np.ndarray = scores.reshape(len(rows), store.num_crops).numpy()
        return wanted
