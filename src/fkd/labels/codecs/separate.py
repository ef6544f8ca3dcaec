"""The labels of several teachers side by side, weighed when a student is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.labels.codecs.codec import Codec, Encoded, Kind
from fkd.labels.targets import SoftTargets


@dataclass(frozen=True)
class PerTeacher:
    """One label of another codec for each of T teachers.

        q = sum over teachers of weight_t q_t / sum of weights

    stays sparse: the kept classes of all teachers are listed side by side, and may repeat.

    Attributes:
        codec: of each label.
        count: T, teachers.
        weights: of the teachers, relative to each other; by default equal.
    """

    codec: Codec
    count: int
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(
                f"labels of {self.count} teacher are not several; use {self.codec.name}"
            )
        if self.weights is None:
            return
        if len(self.weights) != self.count:
            raise ConfigError(
                f"teacher_weights: the labels are of {self.count} teachers, got "
                f"{len(self.weights)} weights"
            )
        if min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf"):
            raise ConfigError(
                f"teacher_weights must be at least 0 and not all 0, got {list(self.weights)}"
            )

    @property
    def name(self) -> str:
        """For example "ms:5*3"."""
        return f"{self.codec.name}*{self.count}"

    @property
    def encodes(self) -> Kind:
        """As the codec of each label."""
        return self.codec.encodes

    @property
    def stores(self) -> Kind:
        """As the codec of each label."""
        return self.codec.stores

    def num_index(self, num_classes: int) -> int:
        """Those of each teacher."""
        return self.count * self.codec.num_index(num_classes)

    def num_values(self, num_classes: int) -> int:
        """Those of each teacher."""
        return self.count * self.codec.num_values(num_classes)

    def encode(self, outputs: Tensor) -> Encoded:
        """Compress the outputs (n, T, C) of all teachers, one after the other."""
        parts = [self.codec.encode(own) for own in outputs.unbind(1)]
        index = [part.index for part in parts if part.index is not None]
        value = [part.value for part in parts if part.value is not None]
        return Encoded(
            torch.cat(index, dim=1) if index else None, torch.cat(value, dim=1) if value else None
        )

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """The weighted mean of the decoded labels; exact, because the sparse form is linear."""
        indices, values = (_split(part, self.count) for part in (encoded.index, encoded.value))
        weights = self.weights or (1.0,) * self.count
        labels = [
            self.codec.targets(Encoded(index, value), num_classes)
            for index, value in zip(indices, values, strict=True)
        ]
        shares = [weight / sum(weights) for weight in weights]
        return _weigh(labels, shares)


def _split(array: Tensor | None, count: int) -> list[Tensor | None]:
    """The columns of each teacher."""
    return [None] * count if array is None else list(array.chunk(count, dim=1))


def _weigh(labels: list[SoftTargets], shares: list[float]) -> SoftTargets:
    first, pairs = labels[0], list(zip(labels, shares, strict=True))
    tail = sum((share * label.tail for label, share in pairs), torch.zeros_like(first.tail))
    weights = [share * label.weight for label, share in pairs]
    if first.index is None:
        return SoftTargets(None, torch.stack(weights).sum(0), tail, first.num_classes)
    index = torch.cat([label.index for label in labels if label.index is not None], dim=1)
    return SoftTargets(index, torch.cat(weights, dim=1), tail, first.num_classes)
