"""How far labels are from each other: one comparison for stores, teachers and precisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fkd.labels.targets import SoftTargets
from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST = 1e-12  # probabilities are raised to this before a logarithm
_EQUAL = 1e-3  # multi-label probabilities that are called equally probable


@dataclass(frozen=True)
class LabelComparison:
    """Labels q of crops against reference labels p of the same crops.

    Of multi-label labels, where each class has a probability of its own, the divergence is the sum
    of those of all classes, the total variation that of the class with the largest, and several
    classes may be next to certain: those within 1e-3 of the highest count as most probable.

    Attributes:
        num: crops compared.
        top1_agreement: share of crops for which the most probable class of p is a most probable
            class of q, in [0, 1]; 1 where none were compared.
        mean_kl: mean of KL(p || q), nats.
        max_kl: the largest of them, nats.
        total_variation: mean of half the sum over classes of |p - q|, in [0, 1].
    """

    num: int
    top1_agreement: float
    mean_kl: float
    max_kl: float
    total_variation: float

    @staticmethod
    def empty() -> LabelComparison:
        """The comparison of no labels, to add others to."""
        return LabelComparison(0, 1.0, 0.0, 0.0, 0.0)

    def __add__(self, other: LabelComparison) -> LabelComparison:
        """The comparison of the crops of both."""
        num = self.num + other.num

        def mean(mine: float, theirs: float) -> float:
            return (self.num * mine + other.num * theirs) / max(num, 1)

        return LabelComparison(
            num=num,
            top1_agreement=mean(self.top1_agreement, other.top1_agreement) if num else 1.0,
            mean_kl=mean(self.mean_kl, other.mean_kl),
            max_kl=max(self.max_kl, other.max_kl),
            total_variation=mean(self.total_variation, other.total_variation),
        )

    def __str__(self) -> str:
        return (
            f"{self.num:,} labels compared: top-1 agreement {self.top1_agreement:.2%}, "
            f"KL mean {self.mean_kl:.1e} max {self.max_kl:.1e}, "
            f"total variation {self.total_variation:.1e}"
        )


@dataclass(frozen=True)
class EmbeddingComparison:
    """Embeddings of crops against reference embeddings of the same crops.

    Attributes:
        num: crops compared.
        mean_cosine: mean cosine of each pair, in [-1, 1]; 1 where none were compared.
        least_cosine: the smallest of them.
    """

    num: int
    mean_cosine: float
    least_cosine: float

    @staticmethod
    def empty() -> EmbeddingComparison:
        """The comparison of no embeddings, to add others to."""
        return EmbeddingComparison(0, 1.0, 1.0)

    def __add__(self, other: EmbeddingComparison) -> EmbeddingComparison:
        """The comparison of the crops of both."""
        num = self.num + other.num
        total = self.num * self.mean_cosine + other.num * other.mean_cosine
        least = min(self.least_cosine, other.least_cosine)
        return EmbeddingComparison(num, total / num if num else 1.0, least)

    def __str__(self) -> str:
        return (
            f"{self.num:,} embeddings compared: cosine {self.mean_cosine:.3f}, "
            f"least {self.least_cosine:.4f}"
        )


def compare_embeddings(reference: Tensor, other: Tensor) -> EmbeddingComparison:
    """Compare embeddings (B, D) of the same crops; in float64.

    Two rows of zeros are equal: their cosine counts as 1. One alone has no direction: it is 0.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])
        >>> str(compare_embeddings(a, b))
        '2 embeddings compared: cosine 0.500, least 0.0000'
    """
    if len(reference) == 0:
        return EmbeddingComparison.empty()
    cosines = (_directions(reference) * _directions(other)).sum(dim=1)
    cosines[(reference == 0).all(dim=1) & (other == 0).all(dim=1)] = 1.0
    return EmbeddingComparison(len(cosines), float(cosines.mean()), float(cosines.min()))


def _directions(embeddings: Tensor) -> Tensor:
    """Rows divided by their lengths, float64; zeros stay zeros.

    `cosine_similarity` takes lengths below 1e-8 for 1e-8, and small embeddings for different ones.
    """
    rows = embeddings.double()
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(lengths == 0, 1.0, lengths)


def compare(reference: SoftTargets, other: SoftTargets) -> LabelComparison:
    """Compare labels of the same B crops and C classes; in float64.

    With p of the reference and q of the other, both at least 1e-12,

        KL(p || q) = sum_c p_c log(p_c / q_c) - p_c + q_c,

    whose last two terms cancel but for the rounding of the sums. Where both keep the same classes,
    the C - K other classes of a crop are equal and are counted without being written out.

    Example:
        >>> p = SoftTargets.full(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> q = SoftTargets.full(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
        >>> comparison = compare(p, q)
        >>> comparison.top1_agreement, comparison.total_variation
        (1.0, 0.25)
    """
    if len(reference) == 0:
        return LabelComparison.empty()
    if reference.multi_label:
        return _compare_multi_label(reference, other)
    p, q, count = _probabilities(reference, other)
    kl = (count * _divergence(p, q)).sum(1)
    # Probabilities that rounding made equal are no disagreement, whichever class comes first.
    agrees = q.gather(1, p.argmax(1, keepdim=True))[:, 0] == q.max(1).values
    return LabelComparison(
        num=len(p),
        top1_agreement=float(agrees.double().mean()),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        total_variation=float((count * (p - q).abs()).sum(1).mean() / 2),
    )


def _compare_multi_label(reference: SoftTargets, other: SoftTargets) -> LabelComparison:
    """`compare` where each class has a probability of its own."""
    p, q, count = _probabilities(reference, other)
    kl = (count * (_divergence(p, q) + _divergence(1.0 - p, 1.0 - q))).sum(1)
    agrees = q.gather(1, p.argmax(1, keepdim=True))[:, 0] >= q.max(1).values - _EQUAL
    return LabelComparison(
        num=len(p),
        top1_agreement=float(agrees.double().mean()),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        total_variation=float((p - q).abs().amax(1).mean()),
    )


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """p log(p / q) - p + q of each entry; those of both sides of a coin sum to its divergence."""
    p, q = p.clamp(min=_SMALLEST), q.clamp(min=_SMALLEST)
    return p * (p / q).log() - p + q


def _probabilities(reference: SoftTargets, other: SoftTargets) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities p and q, float64 (B, columns), and how many classes each column stands for."""
    num_classes, ids = reference.num_classes, reference.index
    if ids is None or other.index is None or not _same_distinct_ids(ids, other.index):
        return reference.dense().double(), other.dense().double(), torch.ones(num_classes)
    count = torch.ones(ids.shape[1] + 1, dtype=torch.float64)
    count[-1] = num_classes - ids.shape[1]
    p, q = (_kept_and_tail(targets)[:, :num_classes] for targets in (reference, other))
    return p, q, count[:num_classes]


def _same_distinct_ids(ids: Tensor, other: Tensor) -> bool:
    """Whether two arrays (B, K) name the same classes in the same places, none twice in a row."""
    if not torch.equal(ids, other):
        return False
    ascending = ids.sort(dim=1).values
    return not bool((ascending[:, 1:] == ascending[:, :-1]).any())


def _kept_and_tail(targets: SoftTargets) -> Tensor:
    """The probability of every kept class, and as last column that of each other class."""
    tail = targets.tail.double()[:, None]
    return torch.cat([targets.weight.double() + tail, tail], dim=1)
