"""Classes drawn from the teacher's probabilities instead of its most probable ones.

A label of K classes out of C must leave something out. What `ms:K` and `mr:K` leave out is the same
in every label, so however many crops a student sees, it is taught the wrong mean. Here the label is
a random one with the right mean,

    E[q_c] = p_c  for every class c,

so the cross-entropy with q and its gradient, which are linear in q, are right on average, too.

The K classes are drawn without repetition. With p_(1) >= p_(2) >= ... there is one threshold t with

    sum over c of min(1, p_c / t) = K,

class c is stored with the probability min(1, p_c / t), and its value is max(p_c, t): classes above
the threshold are always there with their own probability, and the others stand for what is not
there. Values sum to 1. Of all ways to keep K classes that are right on average this has the least
sum of variances.

Source: Sparse Logit Sampling (ACL 2025), which draws K classes from p or a power of p with
repetition and weighs them by their counts.
Differs: the classes are distinct, so that K numbers hold more, and large ones are exact: VarOpt
sampling (Cohen, Duffield, Kaplan, Lund and Thorup, SODA 2009), here by systematic draws (Madow,
Annals of Mathematical Statistics 20, 1949), which take one random number per label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fkd.labels.codecs import Codec, MarginalRenorm, top_k
from fkd.labels.encoded import Encoded
from fkd.lazy import torch
from fkd.randomness import Purpose, uniforms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampled(MarginalRenorm):
    """K classes drawn so that the mean label is the teacher's; stored and decoded as `mr:K`.

    Example:
        >>> import numpy as np, torch
        >>> from fkd.labels.sampled import Sampled
        >>> p = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.1]])
        >>> Sampled(2).encode(p, np.array([0.2])).ids  # 0.5 for class 0, and 0.5 for one other
        array([[0, 1]])
        >>> Sampled(2).encode(p, np.array([0.9])).ids
        array([[0, 4]])
    """

    @property
    def name(self) -> str:
        """For example "sampled:5"."""
        return f"sampled:{self.k}"

    def encode(self, outputs: Tensor, draws: np.ndarray | None = None) -> Encoded:
        """Compress probabilities (n, C).

        Args:
            outputs: of the teacher.
            draws: a random number in [0, 1) for each label, float64 (n,), see `draw_labels`.
        """
        if draws is None:
            raise TypeError("sampled labels need a random number each")
        p = _normalized(outputs)
        values = torch.from_numpy(_draw(p, thresholds(p, self.k), self.k, draws))
        ids, kept = top_k(values, self.k)
        return Encoded(ids.numpy(), kept.numpy())

    def values_of(self, outputs: Tensor, ids: np.ndarray) -> tuple[Encoded, np.ndarray]:
        """The label that draws of the classes `ids` (n, K) give, and its threshold (n,).

        Which classes are drawn is open; what is stored of them is not. So labels can be compared
        with those of the same teacher on another machine.
        """
        p = _normalized(outputs)
        threshold = thresholds(p, self.k)
        kept = np.take_along_axis(p, ids, axis=1)
        values = np.where(kept > 0, np.maximum(kept, threshold[:, None]), 0.0)
        return Encoded(ids, values.astype(np.float32)), threshold


def encode_labels(codec: Codec, outputs: Tensor, draws: np.ndarray | None) -> Encoded:
    """Compress outputs (n, ...) of the teacher, with random numbers (n,) if the codec draws."""
    return codec.encode(outputs, draws) if isinstance(codec, Sampled) else codec.encode(outputs)


def draw_labels(streams: ArrayLike, numbers: ArrayLike) -> np.ndarray:
    """The random number of each crop's label, float64 in [0, 1), of the broadcast shape.

    Args:
        streams: of the images, uint64, as for their crops.
        numbers: of the crops.
    """
    return uniforms(streams, Purpose.LABEL, numbers, 1)[..., 0]


def thresholds(p: np.ndarray, k: int) -> np.ndarray:
    """t of each label, float64 (n,), of probabilities (n, C) with sum 1; 0 if K classes are all.

    With the l largest classes above it, t = (1 - their sum) / (K - l), and the next one is not.
    """
    largest = np.sort(np.partition(p, p.shape[1] - k, axis=1)[:, -k:], axis=1)[:, ::-1]
    left = (1.0 - (np.cumsum(largest, axis=1) - largest)).clip(min=0.0)
    candidates = left / np.arange(k, 0, -1)
    fits = largest <= candidates
    fits[:, -1] = True  # but for rounding it does
    found: np.ndarray = candidates[np.arange(len(p)), fits.argmax(axis=1)]
    return found


def _draw(p: np.ndarray, threshold: np.ndarray, k: int, draws: np.ndarray) -> np.ndarray:
    """The values of the drawn classes, float32 (n, C), and 0 of all others.

    The classes that are not above the threshold lie side by side on a line, each as long as it is
    probable; one point is in every stretch of length t, all at the same place of it.
    """
    above = p > threshold[:, None]
    num_drawn = (k - above.sum(axis=1)).clip(min=0)[:, None]
    ends = np.cumsum(np.where(above, 0.0, p), axis=1)
    total = ends[:, -1:].copy()
    stretch = np.where(num_drawn > 0, total, 0.0) / num_drawn.clip(min=1)
    scaled = ends / np.where(stretch > 0, stretch, np.inf)
    points = np.ceil(scaled - np.asarray(draws)[:, None]).clip(0, num_drawn)
    drawn = np.diff(points, axis=1, prepend=0.0) > 0
    values: np.ndarray = np.where(above, p, np.where(drawn, stretch, 0.0)).astype(np.float32)
    return values


def _normalized(outputs: Tensor) -> np.ndarray:
    """Probabilities float64 (n, C) with sum 1, which a softmax in float32 has but for rounding."""
    p: np.ndarray = outputs.cpu().double().numpy()
    normalized: np.ndarray = p / p.sum(axis=1, keepdims=True)
    return normalized
