"""How the labels of one store compare with those of another that was made from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkd.labels.targets import SoftTargets
from fkd.store.reader import LabelStore

_CROPS_AT_ONCE = 1 << 14
_PROBABILITIES_AT_ONCE = 1 << 22
_SMALLEST = 1e-12  # probabilities are clamped to this before a logarithm


@dataclass(frozen=True)
class Agreement:
    """How labels after a conversion compare with those before it.

    Attributes:
        num: crops compared.
        top1_agreement: share of them whose most probable class is the same.
        mean_kl: mean of KL(before || after), nats.
        max_kl: the largest of them.
    """

    num: int
    top1_agreement: float
    mean_kl: float
    max_kl: float

    def __str__(self) -> str:
        return (
            f"{self.num:,} labels compared: top-1 agreement {self.top1_agreement:.2%}, "
            f"KL mean {self.mean_kl:.1e} max {self.max_kl:.1e}"
        )


def compare_labels(
    before: LabelStore, after: LabelStore, advanced: Callable[[int], None] = lambda num: None
) -> Agreement:
    """Compare all labels of `after` with those of the same crops in `before`.

    Args:
        before: has the same images, and as many crops of each or more.
        after: the newer store; may lack its manifest.
        advanced: called with the number of images that were compared.
    """
    num, same, total, largest = 0, 0, 0.0, 0.0
    for rows in row_chunks(before, _at_once(before, after)):
        labeled = rows[before.labeled(rows)]
        crops = np.broadcast_to(np.arange(after.num_crops), (len(labeled), after.num_crops))
        pair = (_targets(store, labeled, crops) for store in (before, after))
        divergence, agrees = _compare(*pair)
        num, same = num + len(agrees), same + int(agrees.sum())
        total += float(divergence.sum())
        largest = max(largest, float(divergence.max())) if len(divergence) else largest
        advanced(len(rows))
    return Agreement(num, same / max(1, num), total / max(1, num), largest)


def row_chunks(store: LabelStore, num_rows: int) -> Iterator[np.ndarray]:
    """All rows of a store in order, int64, so many at a time."""
    for first in range(0, store.num_images, num_rows):
        yield np.arange(first, min(first + num_rows, store.num_images))


def _at_once(before: LabelStore, after: LabelStore) -> int:
    """Images whose labels fit comfortably into memory, dense where they have to be compared so."""
    sparse = _num_kept(before) == _num_kept(after) > 0
    crops = _CROPS_AT_ONCE if sparse else _PROBABILITIES_AT_ONCE // before.num_classes
    return max(1, crops // before.num_crops)


def _num_kept(store: LabelStore) -> int:
    return store.codec.num_ids(store.num_classes)


def _targets(store: LabelStore, rows: np.ndarray, crops: np.ndarray) -> SoftTargets:
    return store.codec.targets(store.read(rows, crops).label, store.num_classes)


def _compare(before: SoftTargets, after: SoftTargets) -> tuple[Tensor, Tensor]:
    """KL(before || after) of each label, float64, and whether their top-1 agrees, bool."""
    (p, rest_p, first_p), (q, rest_q, first_q) = _shares(before, after), _shares(after, before)
    others = before.num_classes - p.shape[1]
    kept = (p * (p.clamp(min=_SMALLEST) / q.clamp(min=_SMALLEST)).log()).sum(1)
    rest = rest_p * (rest_p.clamp(min=_SMALLEST) / rest_q.clamp(min=_SMALLEST)).log()
    return kept + others * rest, first_p == first_q


def _shares(targets: SoftTargets, other: SoftTargets) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities of the kept classes and of each other class, and the most probable class.

    If the two labels do not keep the same classes, all classes count as kept.
    """
    index = targets.index
    if index is None or other.index is None or not torch.equal(index, other.index):
        dense = targets.dense().double()
        return dense, torch.zeros(len(dense), dtype=torch.float64), dense.argmax(1)
    kept = targets.weight.double() + targets.tail.double()[:, None]
    best, place = kept.max(1)
    first = index.gather(1, place[:, None])[:, 0]
    return kept, targets.tail.double(), torch.where(best >= targets.tail, first, -1)
