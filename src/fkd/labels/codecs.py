"""How a soft label is compressed: the codecs of the paper, one equation each, and some more.

    codec     stored per crop        decoded q_c
    full      p (C values)           p_c
    hard      y = argmax p           1 if c = y else 0                            Eq. 3
    smoothing (y, p_y)               p_y if c = y else (1 - p_y) / (C - 1)        Eq. 4
    ms:K      top-K (id, p)          p_c if c in top-K else (1 - sum p) / (C - K) Eq. 5
    mr:K      top-K (id, p)          p_c / sum p if c in top-K else 0             Eq. 6-7
    sampled:K K drawn (id, p)        as mr:K; E[q_c] = p_c: `fkd.labels.sampled`
    logits    z (D values)           softmax(z / t): for self-supervised teachers
    logits:K  top-K (id, log p),     the same with any t; at t = 1 it is ms:K
              log of the rest
    top:K     top-K (id, logit)      softmax(z), z_c = 0 for all others: cells of label maps

Guards on rounded values: a sum above 1 is scaled back to 1, a sum of 0 becomes the uniform label.
Ties go to the lower class id, so a label does not depend on the sorting library.

Labels of several teachers side by side, and codecs by name: `fkd.labels.codec_names`. Labels of
multi-label teachers, `sigmoid` and `sigmoid:K`: `fkd.labels.sigmoid_codecs`.
Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from fkd.errors import ConfigError
from fkd.labels.encoded import Encoded
from fkd.labels.targets import SoftTargets
from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["probabilities", "logits", "sigmoids"]
_LOG_OF_ZERO = -60000.0  # half floats hold it exactly


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

    def num_ids(self, num_classes: int) -> int:
        """Class ids stored per crop."""

    def num_values(self, num_classes: int) -> int:
        """Values stored per crop."""

    def encode(self, outputs: Tensor) -> Encoded:
        """Compress the teacher's probabilities (or logits), float (n, C)."""

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """The decoded labels q, still sparse, of B crops in all: leading axes become one."""


def decode(codec: Codec, encoded: Encoded, num_classes: int) -> Tensor:
    """The decoded label q of every crop, float32 (B, C); rows sum to 1, but for sigmoids."""
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
    ids = ((ordered.long() << 32) | lower_id_first).topk(k, dim=1).indices
    return ids, p.gather(1, ids)


class _AllClasses:
    """Codecs that store one value per class, in the order of the classes."""

    def num_ids(self, num_classes: int) -> int:
        """No ids."""
        return 0

    def num_values(self, num_classes: int) -> int:
        """One value per class."""
        return num_classes

    def encode(self, outputs: Tensor) -> Encoded:
        """Keep the outputs as they are."""
        return _encoded(None, outputs)


@dataclass(frozen=True)
class _TopK:
    """Codecs that store k classes, the largest first, each with its value."""

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"a codec must keep at least 1 class, got K = {self.k}")

    def num_ids(self, num_classes: int) -> int:
        """One id per kept class."""
        return self.k

    def num_values(self, num_classes: int) -> int:
        """One value per kept class."""
        return self.k

    def encode(self, outputs: Tensor) -> Encoded:
        """The k largest outputs, largest first."""
        return _encoded(*top_k(outputs, self.k))


@dataclass(frozen=True)
class Full(_AllClasses):
    """All C probabilities.

    Example:
        >>> import torch
        >>> from fkd import Full
        >>> label = Full().encode(torch.tensor([[0.7, 0.2, 0.1]]))
        >>> Full().targets(label, num_classes=3).dense()
        tensor([[0.7000, 0.2000, 0.1000]])
    """

    name: ClassVar[str] = "full"
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """Rescaled to sum 1, because stored values are rounded; a row of zeros is uniform."""
        p = _values(encoded)
        total = p.sum(1, keepdim=True)
        empty = total == 0
        q = torch.where(empty, 1.0 / num_classes, p / torch.where(empty, 1.0, total))
        return SoftTargets.full(q)


@dataclass(frozen=True)
class Hard:
    """The teacher's most probable class (Eq. 3); not the true class.

    Example:
        >>> import torch
        >>> from fkd import Hard
        >>> label = Hard().encode(torch.tensor([[0.7, 0.2, 0.1]]))
        >>> Hard().targets(label, num_classes=3).dense()
        tensor([[1., 0., 0.]])
    """

    name: ClassVar[str] = "hard"
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    def num_ids(self, num_classes: int) -> int:
        """One id."""
        return 1

    def num_values(self, num_classes: int) -> int:
        """No value: it is 1."""
        return 0

    def encode(self, outputs: Tensor) -> Encoded:
        """y = argmax p."""
        return _encoded(top_k(outputs, 1)[0], None)

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = 1 if c = y else 0."""
        return SoftTargets.one_hot(_ids(encoded)[:, 0], num_classes)


@dataclass(frozen=True)
class MarginalSmoothing(_TopK):
    """The k most probable classes; the remaining mass is spread evenly (MS, Eq. 5).

    Example:
        >>> import torch
        >>> from fkd import MarginalSmoothing
        >>> label = MarginalSmoothing(2).encode(torch.tensor([[0.6, 0.1, 0.2, 0.1]]))
        >>> label.ids, label.values
        (array([[0, 2]]), array([[0.6, 0.2]], dtype=float32))
        >>> MarginalSmoothing(2).targets(label, num_classes=4).dense()
        tensor([[0.6000, 0.1000, 0.2000, 0.1000]])
    """

    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    @property
    def name(self) -> str:
        """Its spelling with k, as `parse_codec` reads it."""
        return f"ms:{self.k}"

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = p_c if kept, else (1 - sum p) / (C - k)."""
        p = _values(encoded)
        total = p.sum(1, keepdim=True)
        if self.k == num_classes:
            q, tail = p / torch.where(total == 0, 1.0, total), torch.zeros_like(total)
        else:
            q = p / total.clamp(min=1.0)
            tail = (1.0 - q.sum(1, keepdim=True)).clamp(min=0.0) / (num_classes - self.k)
        return _targets(_ids(encoded), *_uniform_where(total == 0, q, tail, num_classes))


@dataclass(frozen=True)
class Smoothing(MarginalSmoothing):
    """The most probable class, the rest spread evenly (Eq. 4): MS with k = 1.

    Example:
        >>> import torch
        >>> from fkd import Smoothing
        >>> label = Smoothing().encode(torch.tensor([[0.6, 0.1, 0.2, 0.1]]))
        >>> Smoothing().targets(label, num_classes=4).dense()
        tensor([[0.6000, 0.1333, 0.1333, 0.1333]])
    """

    k: int = field(default=1, init=False)

    @property
    def name(self) -> str:
        """Always "smoothing"."""
        return "smoothing"


@dataclass(frozen=True)
class MarginalRenorm(_TopK):
    """The k most probable classes, rescaled to sum 1; all others 0 (MR, Eq. 6-7).

    Example:
        >>> import torch
        >>> from fkd import MarginalRenorm
        >>> label = MarginalRenorm(2).encode(torch.tensor([[0.6, 0.1, 0.2, 0.1]]))
        >>> MarginalRenorm(2).targets(label, num_classes=4).dense()
        tensor([[0.7500, 0.0000, 0.2500, 0.0000]])
    """

    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "probabilities"

    @property
    def name(self) -> str:
        """Its spelling with k, as `parse_codec` reads it."""
        return f"mr:{self.k}"

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = p_c / sum p if kept, else 0."""
        p = _values(encoded)
        total = p.sum(1, keepdim=True)
        q, tail = p / torch.where(total == 0, 1.0, total), torch.zeros_like(total)
        return _targets(_ids(encoded), *_uniform_where(total == 0, q, tail, num_classes))


@dataclass(frozen=True)
class Logits(_AllClasses):
    """Outputs before the softmax: projections of self-supervised teachers, or logits.

    Source: FKD Sec. 3.4 (self-supervised variant); the temperature is applied at training.

    Example:
        >>> import torch
        >>> from fkd import Logits
        >>> label = Logits().encode(torch.tensor([[2.0, 0.0, 0.0]]))
        >>> Logits(temperature=2.0).targets(label, num_classes=3).dense()
        tensor([[0.5761, 0.2119, 0.2119]])
    """

    temperature: float = 1.0
    name: ClassVar[str] = "logits"
    encodes: ClassVar[Kind] = "logits"
    stores: ClassVar[Kind] = "logits"

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q = softmax(z / temperature)."""
        return SoftTargets.full(torch.softmax(_values(encoded) / self.temperature, dim=1))


@dataclass(frozen=True)
class TopKLogits(_TopK):
    """The k largest logits of a cell of a label map; all other classes count as logit 0.

    Source: Re-labeling ImageNet (Yun et al., CVPR 2021), whose maps are filled up with zeros. Maps
    are pooled before the softmax (`fkd.labels.pooling`); `targets` is the label of each cell alone.
    """

    encodes: ClassVar[Kind] = "logits"
    stores: ClassVar[Kind] = "logits"

    @property
    def name(self) -> str:
        """Its spelling with k, as `parse_codec` reads it."""
        return f"top:{self.k}"

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q = softmax(z), where C - k classes have z = 0."""
        z = _values(encoded)
        highest = z.max(1, keepdim=True).values.clamp(min=0.0)
        kept, other = torch.exp(z - highest), torch.exp(-highest)
        total = kept.sum(1, keepdim=True) + (num_classes - self.k) * other
        return _targets(_ids(encoded), kept / total, other / total, num_classes)


@dataclass(frozen=True)
class TopKLogProbs(_TopK):
    """The k largest log-probabilities and that of all other classes: any temperature, afterwards.

    With l_k = log p_k and l_rest = log(1 - sum p_k), which is all of the logits that a softmax can
    see, the label at temperature t is the softmax of

        l_k / t for the kept classes, (l_rest - log(C - k)) / t for each of the others,

    as if the others were equal. At t = 1 it is ms:k. Mean total variation from softmax(z / t) of
    all logits, EfficientNet-Lite0 on 600 ImageNet crops, at t = 1, 2, 4, 20: 0.10 (as ms:5), 0.21,
    0.11, 0.02 for k = 5; 0.07, 0.19, 0.10, 0.02 for k = 10. The first class is always the same.

    Differs: the paper applies a temperature before labels are compressed, once and for all.
    """

    temperature: float = 1.0
    encodes: ClassVar[Kind] = "probabilities"
    stores: ClassVar[Kind] = "logits"

    @property
    def name(self) -> str:
        """Its spelling with k, as `parse_codec` reads it."""
        return f"logits:{self.k}"

    def num_values(self, num_classes: int) -> int:
        """One value per kept class, and one for the rest."""
        return self.k + 1

    def encode(self, outputs: Tensor) -> Encoded:
        """The k largest log-probabilities, largest first, and that of the rest, of p (n, C)."""
        ids, kept = top_k(outputs, self.k)
        rest = outputs.float().scatter(1, ids, 0.0).sum(1, keepdim=True)
        return _encoded(ids, torch.cat([kept, rest], dim=1).log().clamp(min=_LOG_OF_ZERO))

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q = softmax at the temperature; the rest is spread evenly."""
        log_probs, others = _values(encoded), num_classes - self.k
        each_other = log_probs[:, -1:] - math.log(max(others, 1))
        logits = torch.cat([log_probs[:, :-1], each_other], dim=1) / self.temperature
        power = torch.exp(logits - logits.max(1, keepdim=True).values)
        kept, other = power[:, :-1], power[:, -1:] * (others > 0)
        total = kept.sum(1, keepdim=True) + others * other
        return _targets(_ids(encoded), kept / total, other / total, num_classes)


def _encoded(ids: Tensor | None, values: Tensor | None) -> Encoded:
    """Tensors on any device as the arrays of labels."""
    return Encoded(
        None if ids is None else ids.cpu().numpy(),
        None if values is None else values.float().cpu().numpy(),
    )


def _ids(encoded: Encoded) -> Tensor:
    """Class ids, int64 (B, K)."""
    assert encoded.ids is not None
    return torch.from_numpy(encoded.ids.reshape(-1, encoded.ids.shape[-1]))


def _values(encoded: Encoded) -> Tensor:
    """Values, float32 (B, V)."""
    assert encoded.values is not None
    return torch.from_numpy(encoded.values.reshape(-1, encoded.values.shape[-1]))


def _uniform_where(
    empty: Tensor, q: Tensor, tail: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, int]:
    """q (B, K) and tail (B, 1), those of `empty` labels replaced by the uniform distribution."""
    uniform = 1.0 / num_classes
    return torch.where(empty, uniform, q), torch.where(empty, uniform, tail), num_classes


def _targets(ids: Tensor, q: Tensor, tail: Tensor, num_classes: int) -> SoftTargets:
    """Targets from decoded probabilities q (B, K) of the kept classes and the tail (B, 1)."""
    return SoftTargets(ids, q - tail, tail[:, 0], num_classes)
