"""Compressed labels as arrays: one value on the way from the teacher to the store and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Encoded:
    """Compressed labels of crops; both arrays share the leading axes, e.g. (images, crops).

    Attributes:
        ids: class ids, int64 (..., K), or None where the codec has none.
        values: float32 (..., V), or None where the codec has none.
    """

    ids: np.ndarray | None
    values: np.ndarray | None

    def __getitem__(self, index: Any) -> "Encoded":
        """Index the leading axes of both arrays alike."""
        return self.map(lambda array: array[index])

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Encoded":
        """The same labels with a function applied to each array."""
        return Encoded(
            None if self.ids is None else function(self.ids),
            None if self.values is None else function(self.values),
        )

    def flat(self) -> "Encoded":
        """The same labels with one leading axis."""
        return self.map(lambda array: array.reshape(-1, array.shape[-1]))

    @staticmethod
    def concatenate(parts: Sequence["Encoded"], axis: int = 0) -> "Encoded":
        """Labels of one codec, joined along an axis; of no parts, no arrays."""
        ids = [part.ids for part in parts if part.ids is not None]
        values = [part.values for part in parts if part.values is not None]
        return Encoded(
            np.concatenate(ids, axis) if ids else None,
            np.concatenate(values, axis) if values else None,
        )
