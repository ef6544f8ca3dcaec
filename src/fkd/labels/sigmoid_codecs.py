"""Labels of multi-label teachers: a probability of every class by itself, from a sigmoid.

    codec      stored per crop                           decoded q_c
    sigmoid    a_c of all C classes                      p_c
    sigmoid:K  top-K (id, a), a of r, the mean p of      p_c if c in top-K else r
               the C - K other classes

with the angle a = 2/pi arcsin(sqrt(p)), p = sin(pi a / 2)^2, from 0 to 1.

Why the mean of the rest: the others are no share of a sum, and of all constants their mean is the
nearest to them, in the sum of the classes' KL divergences. Binary cross-entropy is linear in q, so
the student's loss is exact where the logits of the other classes are equal. A rest of 0 would teach
it that a class is certainly absent that the teacher only did not rank among the first K.

Why angles: rounding a by d moves the KL divergence of a class by about pi^2 d^2 / 2, wherever p is,
and that of p itself by much more near 1, where sigmoids often are. Sum over 1,000 classes in nats,
u16, logits normal with mean 0 or 8 and deviation 4: angles 1e-7 and 1e-7, p 1e-4 and 6e-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fkd.errors import ConfigError
from fkd.labels.codecs import Codec, Kind, top_k
from fkd.labels.encoded import Encoded
from fkd.labels.targets import SoftTargets
from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sigmoid:
    """The probabilities of all C classes, each by itself.

    Example:
        >>> import torch
        >>> from fkd import parse_codec
        >>> codec = parse_codec("sigmoid")
        >>> label = codec.encode(torch.tensor([[0.9, 0.8, 0.1]]))
        >>> codec.targets(label, num_classes=3).dense()
        tensor([[0.9000, 0.8000, 0.1000]])
    """

    name: ClassVar[str] = "sigmoid"
    encodes: ClassVar[Kind] = "sigmoids"
    stores: ClassVar[Kind] = "probabilities"

    def num_ids(self, num_classes: int) -> int:
        """No ids."""
        return 0

    def num_values(self, num_classes: int) -> int:
        """One value per class."""
        return num_classes

    def encode(self, outputs: Tensor) -> Encoded:
        """The angles of p (n, C)."""
        return Encoded(None, angles(outputs.cpu().double().numpy()))

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = p_c."""
        return SoftTargets.full(torch.from_numpy(_probabilities(encoded)), multi_label=True)


@dataclass(frozen=True)
class TopKSigmoid:
    """The k largest probabilities, and the mean of the others.

    Example:
        >>> import torch
        >>> from fkd import parse_codec
        >>> codec = parse_codec("sigmoid:2")
        >>> label = codec.encode(torch.tensor([[0.9, 0.1, 0.8, 0.3]]))
        >>> label.ids
        array([[0, 2]])
        >>> codec.targets(label, num_classes=4).dense()
        tensor([[0.9000, 0.2000, 0.8000, 0.2000]])
    """

    k: int
    encodes: ClassVar[Kind] = "sigmoids"
    stores: ClassVar[Kind] = "probabilities"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"a codec must keep at least 1 class, got K = {self.k}")

    @property
    def name(self) -> str:
        """For example "sigmoid:20"."""
        return f"sigmoid:{self.k}"

    def num_ids(self, num_classes: int) -> int:
        """One id per kept class."""
        return self.k

    def num_values(self, num_classes: int) -> int:
        """One value per kept class, and one for the rest."""
        return self.k + 1

    def encode(self, outputs: Tensor) -> Encoded:
        """Ids and angles of the k largest p (n, C), largest first, and the angle of the rest."""
        ids, kept = top_k(outputs, self.k)
        others = outputs.float().scatter(1, ids, 0.0).sum(1, keepdim=True)
        rest = others / max(outputs.shape[1] - self.k, 1)
        p = torch.cat([kept, rest], dim=1).cpu().double()
        return Encoded(ids.cpu().numpy(), angles(p.numpy()))

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """q_c = p_c if kept, else the mean of the others."""
        assert encoded.ids is not None
        p = torch.from_numpy(_probabilities(encoded))
        ids = torch.from_numpy(encoded.ids.reshape(-1, self.k))
        kept, rest = p[:, :-1], p[:, -1:]
        if self.k == num_classes:
            rest = torch.zeros_like(rest)
        return SoftTargets(ids, kept - rest, rest[:, 0], num_classes, multi_label=True)


def is_multi_label(codec: Codec) -> bool:
    """Whether each class of a label has a probability of its own, also of teachers side by side."""
    return codec.encodes == "sigmoids"


def keep_fewer(label: Encoded, k: int, num_classes: int) -> Encoded:
    """Labels (..., K) of sigmoid:K as those of sigmoid:k; the rest takes in what is dropped."""
    assert label.ids is not None
    assert label.values is not None
    p, before = from_angles(label.values), label.ids.shape[-1]
    others = p[..., k:-1].sum(-1) + (num_classes - before) * p[..., -1]
    rest = angles(others / max(num_classes - k, 1))
    return Encoded(
        label.ids[..., :k], np.concatenate([label.values[..., :k], rest[..., None]], axis=-1)
    )


def angles(p: np.ndarray) -> np.ndarray:
    """What is stored of probabilities, float32 from 0 to 1; exact to 1e-7 also near 0 and 1."""
    p = np.clip(p, 0.0, 1.0)
    a: np.ndarray = np.arctan2(np.sqrt(p), np.sqrt(1.0 - p)) * (2.0 / math.pi)
    return a.astype(np.float32)


def from_angles(a: np.ndarray) -> np.ndarray:
    """The inverse of `angles`, float64."""
    p: np.ndarray = np.sin(a.astype(np.float64) * (math.pi / 2.0)) ** 2
    return p


def _probabilities(encoded: Encoded) -> np.ndarray:
    """Float32 (B, V)."""
    assert encoded.values is not None
    return from_angles(encoded.values.reshape(-1, encoded.values.shape[-1])).astype(np.float32)
