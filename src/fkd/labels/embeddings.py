"""What a student is trained against where a teacher knows no classes: its embedding of a crop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fkd.labels.encoded import Encoded
from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a batch of B crops, before any softmax.

    Attributes:
        values: float32 (B, D).
        labels: true class ids, int64 (B,), -1 where unknown; None when there are none.

    Example:
        >>> import torch
        >>> Embeddings(torch.zeros(6, 128))
        Embeddings(crops=6, dimensions=128)
    """

    values: Tensor
    labels: Tensor | None = None

    @staticmethod
    def of(encoded: Encoded) -> Embeddings:
        """Stored embeddings, values (..., D), of all crops one after the other."""
        assert encoded.values is not None
        values = encoded.values.reshape(-1, encoded.values.shape[-1])
        return Embeddings(torch.from_numpy(values))

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Embeddings(crops={len(self)}, dimensions={self.values.shape[1]})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Embeddings:
        """The same embeddings on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Embeddings:
        """The same embeddings in page-locked memory; called by torch's DataLoader."""
        return self._map(torch.Tensor.pin_memory)

    def __getitem__(self, rows: Any) -> Embeddings:
        """The embeddings of some crops; `rows` is a slice or an index tensor."""
        return self._map(lambda t: t[rows])

    def _map(self, function: Any) -> Embeddings:
        labels = None if self.labels is None else function(self.labels)
        return replace(self, values=function(self.values), labels=labels)
