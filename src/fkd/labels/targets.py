"""What a student is trained against: one soft label per crop, kept sparse.

A soft label q over C classes is written as a constant tail plus a few corrections,

    q_c = tail + sum over k with index_k = c of weight_k,

which holds top-K labels of every codec, their mixtures (MixUp, CutMix) and their blend with the
true classes without ever forming the C numbers. With `index = None` the C weights are given in
class order (full labels).

Of a softmax, the q_c of a crop sum to 1; of multi-label targets, each q_c is the probability of a
class by itself. The form is the same, and the loss is another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SoftTargets:
    """Soft labels of a batch of B crops.

    Attributes:
        index: class ids, int64 (B, K), or None when `weight` covers all classes in order.
        weight: what each named class has above the tail, float32 (B, K) or (B, C).
        tail: probability of every class that is not named, float32 (B,).
        num_classes: their number, C.
        labels: true class ids, int64 (B,), -1 where unknown; None when there are none.
        multi_label: whether each class has a probability of its own, as from a sigmoid.

    Example:
        >>> import torch
        >>> from fkd import SoftTargets
        >>> targets = SoftTargets.one_hot(torch.tensor([2]), num_classes=4, smoothing=0.2)
        >>> targets
        SoftTargets(crops=1, classes=4, kept=1)
        >>> targets.dense()
        tensor([[0.0500, 0.0500, 0.8500, 0.0500]])
    """

    index: Tensor | None
    weight: Tensor
    tail: Tensor
    num_classes: int
    labels: Tensor | None = None
    multi_label: bool = False

    @staticmethod
    def one_hot(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> SoftTargets:
        """Ground-truth classes (B,) as soft targets, with `smoothing` spread over all classes."""
        tail = torch.full(labels.shape, smoothing / num_classes, device=labels.device)
        weight = torch.full((len(labels), 1), 1.0 - smoothing, device=labels.device)
        return SoftTargets(labels[:, None], weight, tail, num_classes, labels)

    @staticmethod
    def multi_hot(classes: Tensor, num_classes: int, smoothing: float = 0.0) -> SoftTargets:
        """Ground truth of images with several classes as multi-label targets.

        A class that an image has gets 1 - smoothing + smoothing / C, any other smoothing / C, as in
        timm's `BinaryCrossEntropy`.

        Args:
            classes: ids int64 (B, L), each once, padded with -1; an image may have none.
            num_classes: their number, C.
            smoothing: in [0, 1).
        """
        tail = torch.full((len(classes),), smoothing / num_classes, device=classes.device)
        weight = (classes >= 0).float() * (1.0 - smoothing)
        return SoftTargets(classes.clamp(min=0), weight, tail, num_classes, multi_label=True)

    @staticmethod
    def full(
        probabilities: Tensor, labels: Tensor | None = None, *, multi_label: bool = False
    ) -> SoftTargets:
        """Probabilities (B, C) of all classes as soft targets."""
        tail = torch.zeros(len(probabilities), device=probabilities.device)
        num_classes = probabilities.shape[1]
        return SoftTargets(None, probabilities, tail, num_classes, labels, multi_label)

    def __len__(self) -> int:
        return len(self.weight)

    def __repr__(self) -> str:
        kept = "all" if self.index is None else self.index.shape[1]
        kind = ", multi_label" if self.multi_label else ""
        return f"SoftTargets(crops={len(self)}, classes={self.num_classes}, kept={kept}{kind})"

    def dense(self) -> Tensor:
        """All C probabilities, float32 (B, C): for losses that want them, e.g. F.cross_entropy."""
        if self.index is None:
            return torch.add(self.weight, self.tail[:, None])
        return (
            self.tail[:, None].repeat(1, self.num_classes).scatter_add(1, self.index, self.weight)
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SoftTargets:
        """The same targets on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftTargets:
        """The same targets in page-locked memory; called by torch's DataLoader."""
        return self._map(torch.Tensor.pin_memory)

    def __getitem__(self, rows: Any) -> SoftTargets:
        """The targets of some crops; `rows` is a slice or an index tensor."""
        return self._map(lambda t: t[rows])

    def entropy(self) -> Tensor:
        """Entropy of each label in nats, (B,); kept classes must be distinct (not mixed labels).

        Of multi-label targets it is the sum of the entropies of all classes.
        """

        def entropy(p: Tensor) -> Tensor:
            of_p: Tensor = torch.special.entr(p)
            return of_p + torch.special.entr(1.0 - p) if self.multi_label else of_p

        kept = entropy(self.weight + self.tail[:, None]).sum(1)
        unnamed = self.num_classes - self.weight.shape[1]
        unnamed_total = unnamed * entropy(self.tail)
        return kept + unnamed_total

    def _map(self, function: Any) -> SoftTargets:
        return replace(
            self,
            index=None if self.index is None else function(self.index),
            weight=function(self.weight),
            tail=function(self.tail),
            labels=None if self.labels is None else function(self.labels),
        )


def mix_targets(targets: SoftTargets, partner: Tensor, share: Tensor) -> SoftTargets:
    """`share` of each label plus (1 - share) of its partner's, without densifying.

    Exact, because the form is linear: the kept classes of both are listed side by side.

    Args:
        targets: B labels; true classes are dropped, a mixed crop has no single class.
        partner: int64 (B,), the row each label is mixed with.
        share: float (B,) in [0, 1], what each label keeps.

    Source: methods used with FKD labels, MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019).
    """
    own, other = share[:, None], 1.0 - share[:, None]
    tail = share * targets.tail + (1.0 - share) * targets.tail[partner]
    weights = own * targets.weight, other * targets.weight[partner]
    if targets.index is None:
        return replace(targets, weight=weights[0] + weights[1], tail=tail, labels=None)
    index = torch.cat([targets.index, targets.index[partner]], dim=1)
    return replace(targets, index=index, weight=torch.cat(weights, 1), tail=tail, labels=None)
