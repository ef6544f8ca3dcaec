"""Codecs of probabilities: those of the paper, one equation each (FKD, Sec. 3.2)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fkd.labels.codecs.codec import Encoded, Kind, both, check_k, normalize, sparse, top_k
from fkd.labels.targets import SoftTargets


@dataclass(frozen=True)
class Full:
    """All C probabilities."""

    name: ClassVar[str] = "full"
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    def num_index(self, num_classes: int) -> int:
        """No ids: every class is stored in order."""
        return 0

    def num_values(self, num_classes: int) -> int:
        """One value a class."""
        return num_classes

    def encode(self, outputs: Tensor) -> Encoded:
        """Keep the probabilities as they are."""
        return Encoded(None, outputs.float())

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """Rescaled to sum 1, because stored values are rounded."""
        _, value = both(encoded, index=False)
        return SoftTargets.full(normalize(value))


@dataclass(frozen=True)
class Hard:
    """The teacher's most probable class (Eq. 3); not the ground truth."""

    name: ClassVar[str] = "hard"
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    def num_index(self, num_classes: int) -> int:
        """One id."""
        return 1

    def num_values(self, num_classes: int) -> int:
        """No value: it is 1."""
        return 0

    def encode(self, outputs: Tensor) -> Encoded:
        """y = argmax p."""
        return Encoded(top_k(outputs, 1)[0], None)

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = 1 if c = y else 0."""
        assert encoded.index is not None
        return SoftTargets.one_hot(encoded.index[:, 0], num_classes)


@dataclass(frozen=True)
class MarginalSmoothing:
    """The k most probable classes; the remaining mass is spread evenly (MS, Eq. 5)."""

    k: int
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    def __post_init__(self) -> None:
        check_k(self.k)

    @property
    def name(self) -> str:
        """For example "ms:5"."""
        return f"ms:{self.k}"

    def num_index(self, num_classes: int) -> int:
        """One id a kept class."""
        return self.k

    def num_values(self, num_classes: int) -> int:
        """One value a kept class."""
        return self.k

    def encode(self, outputs: Tensor) -> Encoded:
        """The k highest probabilities, highest first."""
        return Encoded(*top_k(outputs, self.k))

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = p_c if kept, else (1 - sum p) / (C - k)."""
        index, p = both(encoded)
        total = p.sum(1, keepdim=True)
        if self.k == num_classes:
            return sparse(index, normalize(p), torch.zeros_like(total), num_classes)
        p = p / total.clamp(min=1.0)
        tail = (1.0 - p.sum(1, keepdim=True)).clamp(min=0.0) / (num_classes - self.k)
        uniform = torch.full_like(total, 1.0 / num_classes)
        empty = total == 0
        return sparse(
            index, torch.where(empty, uniform, p), torch.where(empty, uniform, tail), num_classes
        )


@dataclass(frozen=True)
class Smoothing(MarginalSmoothing):
    """The most probable class, the rest spread evenly (Eq. 4): MS with k = 1."""

    k: int = 1

    @property
    def name(self) -> str:
        """Always "smoothing"."""
        return "smoothing"


@dataclass(frozen=True)
class MarginalRenorm(MarginalSmoothing):
    """The k most probable classes, rescaled to sum 1; all others 0 (MR, Eq. 6-7)."""

    @property
    def name(self) -> str:
        """For example "mr:5"."""
        return f"mr:{self.k}"

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = p_c / sum p if kept, else 0."""
        index, p = both(encoded)
        total = p.sum(1, keepdim=True)
        uniform = torch.full_like(total, 1.0 / num_classes)
        empty = total == 0
        q = torch.where(empty, uniform, p / torch.where(empty, 1.0, total))
        return sparse(index, q, torch.where(empty, uniform, 0.0), num_classes)
