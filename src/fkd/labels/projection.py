"""Features in fewer dimensions: a fixed random projection that any machine makes again.

    z' = z R,   R (D, D') of entries +1 / sqrt(D') and -1 / sqrt(D')

keeps inner products on average, E[<x R, y R>] = <x, y>, with the variance

    (|x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / D'.

Signs, because they are single bits of the generator: entries from a normal distribution need
logarithms and cosines, and orthogonal ones a decomposition, whose last bits differ between
machines. Inner products vary no more by signs than by normal entries.

Source: Achlioptas, "Database-friendly random projections", 2003, whose coins these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from fkd.errors import TeacherError
from fkd.lazy import torch
from fkd.randomness import Purpose, stream_key, uniforms

if TYPE_CHECKING:
    from torch import Tensor

_BITS = 32  # of a draw


@dataclass(frozen=True)
class Projection:
    """A fixed random projection.

    Attributes:
        num_features: D, columns before it.
        dims: D', columns after it, at most D.
        seed: of the signs.
    """

    num_features: int
    dims: int
    seed: int

    def matrix(self) -> np.ndarray:
        """R, float32 (D, D'): the same bits everywhere."""
        return _matrix(self)

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, D) as float32 (B, D').

        Raises:
            TeacherError: there are other than D of them.
        """
        if features.shape[1] != self.num_features:
            raise TeacherError(
                f"the projection of this store takes {self.num_features:,} features, and the "
                f"teacher gives {features.shape[1]:,}; use the teacher that labeled it"
            )
        return features @ torch.from_numpy(self.matrix()).to(features.device)


@cache
def _matrix(projection: Projection) -> np.ndarray:
    """Bit j % 32 (1 = lowest) of draw j // 32 for row i: entry (i, j) is negative where it is 1."""
    draws = uniforms(
        stream_key(projection.seed),
        Purpose.PROJECTION,
        np.arange(projection.num_features),
        math.ceil(projection.dims / _BITS),
    )
    words = (draws * 2.0**_BITS).astype("<u4")
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, : projection.dims]
    size = np.float32(1.0 / math.sqrt(projection.dims))
    matrix: np.ndarray = np.where(bits == 1, -size, size)
    return matrix
