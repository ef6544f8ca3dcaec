"""What is stored of a crop, so that the same pixels can be cut again.

A record says where a crop lies (`box`), whether it is flipped (`flip`), and the parameters of any
further augmentation that the teacher saw (`extra`). Records are plain arrays; this module knows
nothing of images, files or random numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CropRecords:
    """Records of many crops; every array shares the leading axes, e.g. (crops,) or (images, crops).

    Attributes:
        box: int64 (..., 4): top, left, height, width in pixels of the decoded image, unflipped.
        flip: bool (...): flipped left to right after the crop.
        extra: parameters of further replayed augmentations by name, each (..., *its own shape).

    Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.1: "record all information (ratio, degree,
    coefficient)".
    """

    box: np.ndarray
    flip: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes that all arrays share."""
        return self.flip.shape

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, index: Any) -> "CropRecords":
        """The records at an index of the leading axes."""
        return self.map(lambda array: array[index])

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "CropRecords":
        """The same records with a function applied to each array."""
        extra = {name: function(array) for name, array in self.extra.items()}
        return CropRecords(function(self.box), function(self.flip), extra)

    @staticmethod
    def stack(records: Sequence["CropRecords"]) -> "CropRecords":
        """Records of equal shape under one new leading axis."""
        return CropRecords(
            np.stack([r.box for r in records]),
            np.stack([r.flip for r in records]),
            {name: np.stack([r.extra[name] for r in records]) for name in records[0].extra},
        )
