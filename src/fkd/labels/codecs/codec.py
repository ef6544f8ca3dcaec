"""What all codecs have in common."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.labels.targets import SoftTargets

Kind = Literal["probabilities", "logits"]


@dataclass(frozen=True)
class Encoded:
    """Compressed labels of n crops: class ids int64 (n, K) and values float32 (n, V), or None."""

    index: Tensor | None
    value: Tensor | None


class Codec(Protocol):
    """A way to compress soft labels; a value, compared and printed by its settings."""

    @property
    def name(self) -> str:
        """The spelling that `parse_codec` reads, e.g. "ms:5"."""

    @property
    def encodes(self) -> Kind:
        """What `encode` takes."""

    @property
    def stores(self) -> Kind:
        """What its values are; logits may be negative."""

    def num_index(self, num_classes: int) -> int:
        """Class ids stored per crop."""

    def num_values(self, num_classes: int) -> int:
        """Values stored per crop."""

    def encode(self, outputs: Tensor) -> Encoded:
        """Compress the teacher's probabilities (or logits) (n, C)."""

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """The decoded label q, still sparse."""


def decode(codec: Codec, encoded: Encoded, num_classes: int) -> Tensor:
    """The decoded label q of every crop, float32 (n, C); rows sum to 1."""
    return codec.targets(encoded, num_classes).dense()


def top_k(outputs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids (n, k) and probabilities or logits (n, k), highest first, ties to the lower class id.

    `torch.topk` leaves the order of ties open; here the class id is part of the sorted number: bits
    of a float32 order like the float itself, those of a negative one the other way round.
    """
    p = (outputs.float() + 0.0).contiguous()  # no -0.0, whose bits are not those of its equal
    num_classes = p.shape[1]
    lower_id_first = torch.arange(num_classes - 1, -1, -1, device=p.device)
    bits = p.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    index = ((ordered.long() << 32) | lower_id_first).topk(k, dim=1).indices
    return index, p.gather(1, index)


def check_k(k: int) -> None:
    """Refuse a codec that keeps nothing."""
    if k < 1:
        raise ConfigError(f"a codec must keep at least 1 class, got K = {k}")


def both(encoded: Encoded, index: bool = True) -> tuple[Tensor, Tensor]:
    """The two arrays of a codec that has both (or, with index=False, the values alone)."""
    assert encoded.value is not None
    assert (encoded.index is not None) == index
    ids = encoded.index if encoded.index is not None else torch.empty(0)
    return ids, encoded.value


def normalize(value: Tensor) -> Tensor:
    """Rows scaled to sum 1; a row of zeros becomes uniform."""
    total = value.sum(1, keepdim=True)
    empty = total == 0
    return torch.where(empty, 1.0 / value.shape[1], value / torch.where(empty, 1.0, total))


def sparse(index: Tensor, q: Tensor, tail: Tensor, num_classes: int) -> SoftTargets:
    """Targets from decoded probabilities q (n, K) of the kept classes and the tail (n, 1)."""
    return SoftTargets(index, q - tail, tail[:, 0], num_classes)
