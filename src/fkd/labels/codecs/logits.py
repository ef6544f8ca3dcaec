"""Codecs that keep numbers from before the softmax."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fkd.labels.codecs.codec import Encoded, Kind, both, check_k, sparse, top_k
from fkd.labels.targets import SoftTargets

_NOTHING = -60000.0  # stands for the logarithm of 0; half floats hold it exactly


@dataclass(frozen=True)
class Logits:
    """Outputs before the softmax: projections of self-supervised teachers, or logits.

    Source: FKD Sec. 3.4 (self-supervised variant); the temperature is applied at training.
    """

    temperature: float = 1.0
    name: ClassVar[str] = "logits"
    encodes: ClassVar[Kind] = "logits"
    stores: ClassVar[Kind] = "logits"

    def num_index(self, num_classes: int) -> int:
        """No ids: every output is stored in order."""
        return 0

    def num_values(self, num_classes: int) -> int:
        """One value an output."""
        return num_classes

    def encode(self, outputs: Tensor) -> Encoded:
        """Keep the outputs as they are."""
        return Encoded(None, outputs.float())

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q = softmax(z / temperature)."""
        _, value = both(encoded, index=False)
        return SoftTargets.full(torch.softmax(value / self.temperature, dim=1))


@dataclass(frozen=True)
class TopKLogits:
    """The k largest logits of a cell of a label map; all other classes count as logit 0.

    Source: Re-labeling ImageNet (Yun et al., CVPR 2021), whose maps are filled up with zeros. Maps
    are pooled before the softmax (`fkd.labels.pooling`); `targets` is the label of each cell alone.
    """

    k: int
    encodes: ClassVar[Kind] = "logits"
    stores: ClassVar[Kind] = "logits"

    def __post_init__(self) -> None:
        check_k(self.k)

    @property
    def name(self) -> str:
        """For example "top:5"."""
        return f"top:{self.k}"

    def num_index(self, num_classes: int) -> int:
        """One id a kept class."""
        return self.k

    def num_values(self, num_classes: int) -> int:
        """One logit a kept class."""
        return self.k

    def encode(self, outputs: Tensor) -> Encoded:
        """The k largest logits, largest first."""
        return Encoded(*top_k(outputs, self.k))

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q = softmax(z), where C - k classes have z = 0."""
        index, z = both(encoded)
        highest = z.max(1, keepdim=True).values.clamp(min=0.0)
        kept, other = torch.exp(z - highest), torch.exp(-highest)
        total = kept.sum(1, keepdim=True) + (num_classes - self.k) * other
        return sparse(index, kept / total, other / total, num_classes)


@dataclass(frozen=True)
class TopKLogProbs:
    """The k largest log-probabilities and that of all other classes: any temperature, afterwards.

    With l_k = log p_k and l_rest = log(1 - sum p_k), which is all of the logits that a softmax can
    see, the label at temperature t is the softmax of

        l_k / t for the kept classes, (l_rest - log(C - k)) / t for each of the others,

    as if the others were equal. At t = 1 it is ms:k. Mean total variation from softmax(z / t) of
    all logits, EfficientNet-Lite0 on 600 ImageNet crops, at t = 1, 2, 4, 20: 0.10 (as ms:5), 0.21,
    0.11, 0.02 for k = 5; 0.07, 0.19, 0.10, 0.02 for k = 10. The first class is always the same.

    Differs: the paper applies a temperature before labels are compressed, once and for all.
    """

    k: int
    temperature: float = 1.0
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "logits"

    def __post_init__(self) -> None:
        check_k(self.k)

    @property
    def name(self) -> str:
        """For example "logits:5"."""
        return f"logits:{self.k}"

    def num_index(self, num_classes: int) -> int:
        """One id a kept class."""
        return self.k

    def num_values(self, num_classes: int) -> int:
        """One value a kept class, and one for the rest."""
        return self.k + 1

    def encode(self, outputs: Tensor) -> Encoded:
        """The k largest log-probabilities, largest first, and that of the rest, of p (n, C)."""
        index, kept = top_k(outputs, self.k)
        rest = outputs.float().scatter(1, index, 0.0).sum(1, keepdim=True)
        value = torch.cat([kept, rest], dim=1).log().clamp(min=_NOTHING)
        return Encoded(index, value)

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q = softmax at the temperature; the rest is spread evenly."""
        index, value = both(encoded)
        others = num_classes - self.k
        each = value[:, -1:] - math.log(max(others, 1))
        logits = torch.cat([value[:, :-1], each], dim=1) / self.temperature
        power = torch.exp(logits - logits.max(1, keepdim=True).values)
        kept, other = power[:, :-1], power[:, -1:] * (others > 0)
        total = kept.sum(1, keepdim=True) + others * other
        return sparse(index, kept / total, other / total, num_classes)
