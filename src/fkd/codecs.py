"""How a soft label is compressed: the codecs of the paper, one equation each.

    codec     stored per crop     decoded q_c
    full      p (C values)        p_c
    hard      y = argmax p        1 if c = y else 0                            Eq. 3
    smoothing (y, p_y)            p_y if c = y else (1 - p_y) / (C - 1)        Eq. 4
    ms:K      top-K (id, p)       p_c if c in top-K else (1 - sum p) / (C - K) Eq. 5
    mr:K      top-K (id, p)       p_c / sum p if c in top-K else 0             Eq. 6-7
    logits    z (D values)        softmax(z): for self-supervised teachers
    top:K     top-K (id, logit)   softmax(z), z_c = 0 for all others: cells of label maps

Guards on rounded values: a sum above 1 is scaled back to 1, a sum of 0 becomes the uniform label.
Ties go to the lower class id, so a label does not depend on the sorting library.

The second half says how a value becomes 2 bytes. This module knows tensors, not files.
Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.targets import SoftTargets

SPELLINGS = "full, hard, smoothing, ms:K, mr:K (K kept classes, e.g. ms:5) or logits"


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
    def encodes(self) -> Literal["probabilities", "logits"]:
        """What `encode` takes."""

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


@dataclass(frozen=True)
class Full:
    """All C probabilities."""

    name: ClassVar[str] = "full"
    encodes: ClassVar[Literal["probabilities"]] = "probabilities"

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
        _, value = _both(encoded, index=False)
        return SoftTargets.full(_normalise(value))


@dataclass(frozen=True)
class Hard:
    """The teacher's most probable class (Eq. 3); not the ground truth."""

    name: ClassVar[str] = "hard"
    encodes: ClassVar[Literal["probabilities"]] = "probabilities"

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
    encodes: ClassVar[Literal["probabilities"]] = "probabilities"

    def __post_init__(self) -> None:
        _check_k(self.k)

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
        index, p = _both(encoded)
        total = p.sum(1, keepdim=True)
        if self.k == num_classes:
            return _sparse(index, _normalise(p), torch.zeros_like(total), num_classes)
        p = p / total.clamp(min=1.0)
        tail = (1.0 - p.sum(1, keepdim=True)).clamp(min=0.0) / (num_classes - self.k)
        uniform = torch.full_like(total, 1.0 / num_classes)
        empty = total == 0
        return _sparse(
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
        index, p = _both(encoded)
        total = p.sum(1, keepdim=True)
        uniform = torch.full_like(total, 1.0 / num_classes)
        empty = total == 0
        q = torch.where(empty, uniform, p / torch.where(empty, 1.0, total))
        return _sparse(index, q, torch.where(empty, uniform, 0.0), num_classes)


@dataclass(frozen=True)
class Logits:
    """Outputs before the softmax: projections of self-supervised teachers, or logits.

    Source: FKD Sec. 3.4 (self-supervised variant); the temperature is applied at training.
    """

    temperature: float = 1.0
    name: ClassVar[str] = "logits"
    encodes: ClassVar[Literal["logits"]] = "logits"

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
        _, value = _both(encoded, index=False)
        return SoftTargets.full(torch.softmax(value / self.temperature, dim=1))


@dataclass(frozen=True)
class TopLogits:
    """The k largest logits of a cell of a label map; all other classes count as logit 0.

    Source: Re-labeling ImageNet (Yun et al., CVPR 2021), whose maps are filled up with zeros. Maps
    are pooled before the softmax (`fkd.pooling`); `targets` is the label of each cell by itself.
    """

    k: int
    encodes: ClassVar[Literal["logits"]] = "logits"

    def __post_init__(self) -> None:
        _check_k(self.k)

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
        index, z = _both(encoded)
        highest = z.max(1, keepdim=True).values.clamp(min=0.0)
        kept, other = torch.exp(z - highest), torch.exp(-highest)
        total = kept.sum(1, keepdim=True) + (num_classes - self.k) * other
        return _sparse(index, kept / total, other / total, num_classes)


def parse_codec(text: str) -> Codec:
    """The codec that a spelling names.

    Raises:
        ConfigError: the spelling is unknown, or K is not a whole number above 0.

    Example:
        >>> parse_codec("ms:5")
        MarginalSmoothing(k=5)
    """
    plain: dict[str, type[Codec]] = {
        "full": Full,
        "hard": Hard,
        "smoothing": Smoothing,
        "logits": Logits,
    }
    top: dict[str, Callable[[int], Codec]] = {
        "ms": MarginalSmoothing,
        "mr": MarginalRenorm,
        "top": TopLogits,
    }
    kind, colon, k = text.partition(":")
    if not colon and kind in plain:
        return plain[kind]()
    if colon and kind in top and k.isdecimal():
        return top[kind](int(k))
    raise ConfigError(f"codec {text!r} is unknown; use {SPELLINGS}")


def check_codec(codec: Codec, num_classes: int) -> None:
    """Refuse a codec that keeps more classes than there are.

    Raises:
        ConfigError: K is above `num_classes`.
    """
    if codec.num_index(num_classes) > num_classes:
        raise ConfigError(
            f"codec {codec.name} keeps {codec.num_index(num_classes)} classes but there are only "
            f"{num_classes}; use a smaller K, or codec full"
        )


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


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"a codec must keep at least 1 class, got K = {k}")


def _both(encoded: Encoded, index: bool = True) -> tuple[Tensor, Tensor]:
    """The two arrays of a codec that has both (or, with index=False, the values alone)."""
    assert encoded.value is not None
    assert (encoded.index is not None) == index
    ids = encoded.index if encoded.index is not None else torch.empty(0)
    return ids, encoded.value


def _normalise(value: Tensor) -> Tensor:
    """Rows scaled to sum 1; a row of zeros becomes uniform."""
    total = value.sum(1, keepdim=True)
    empty = total == 0
    return torch.where(empty, 1.0 / value.shape[1], value / torch.where(empty, 1.0, total))


def _sparse(index: Tensor, q: Tensor, tail: Tensor, num_classes: int) -> SoftTargets:
    """Targets from decoded probabilities q (n, K) of the kept classes and the tail (n, 1)."""
    return SoftTargets(index, q - tail, tail[:, 0], num_classes)


# Values in 2 bytes.

VALUE_DTYPES: dict[str, np.dtype] = {
    "u16": np.dtype("<u2"),
    "f16": np.dtype("<f2"),
    "f32": np.dtype("<f4"),
}
_LEVELS = 65535.0


def quantise(value: np.ndarray, value_dtype: str) -> np.ndarray:
    """Values as they are stored; "u16" is for probabilities only.

    "u16" stores x = stored / 65535 with p = 17 x^2 / (16 x + 1): spaced like square roots below
    about 1 %, evenly above. It is never off by more than 8.2e-6 and keeps probabilities down to
    1e-9, where even spacing ends at 8e-6 and half floats lose the tail of confident labels.
    """
    if value_dtype != "u16":
        return value.astype(VALUE_DTYPES[value_dtype])
    p = np.clip(value.astype(np.float64), 0.0, 1.0)
    x = (8.0 * p + np.sqrt(64.0 * p * p + 17.0 * p)) / 17.0
    return np.rint(x * _LEVELS).astype(VALUE_DTYPES["u16"])


def dequantise(stored: np.ndarray, value_dtype: str) -> np.ndarray:
    """Stored values as float32."""
    if value_dtype != "u16":
        return stored.astype(np.float32)
    return _u16_values().take(stored)


@cache
def _u16_values() -> np.ndarray:
    """The value of each of the 65,536 numbers that can be stored, float32."""
    x = np.arange(_LEVELS + 1.0) / _LEVELS
    return (17.0 * x * x / (16.0 * x + 1.0)).astype(np.float32)
