"""Which crops show how ReLabel and FKD labels differ: the four cases of Fig. 2.

    (1) ReLabel is sure and FKD is not       max R > 0.95 and max F < 0.7
    (2) equally sure, different labels       |max R - max F| < 0.05 and KL(F || R) > 1
    (3) only FKD is right, on a small crop   argmax R != truth = argmax F, area < a quarter
    (4) ReLabel says next to nothing         entropy of R > 0.9 log C

R is the label map pooled at the crop box, F the label of the crop. Where no crop meets (1), (2) or
(4), the nearest one is shown as such.

Source: FKD (Shen and Xing, ECCV 2022), Fig. 2, whose crops were chosen by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from fkd.analysis.label_sources import Distributions
from fkd.labels.arrays import entropies

_SURE, _UNSURE = 0.95, 0.7
_SAME_MAX, _FAR = 0.05, 1.0
_SMALL = 0.25
_NO_IDEA = 0.9  # of the entropy of the uniform label


@dataclass(frozen=True)
class LabelStatistics:
    """What the criteria need to know of n crops; every array is (n,).

    Attributes:
        relabel_max: probability of ReLabel's first class.
        relabel_class: that class.
        relabel_entropy: of its label, nats.
        fkd_max: probability of FKD's first class.
        fkd_class: that class.
        kl: KL(F || R), nats.
        area: of the crop box, as a share of the image.
        truth: the true class, -1 where it is not known.
    """

    relabel_max: np.ndarray
    relabel_class: np.ndarray
    relabel_entropy: np.ndarray
    fkd_max: np.ndarray
    fkd_class: np.ndarray
    kl: np.ndarray
    area: np.ndarray
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.area)

    @staticmethod
    def of(
        relabel: np.ndarray, fkd: np.ndarray, area: np.ndarray, truth: np.ndarray
    ) -> "LabelStatistics":
        """Those of labels (n, C) of the same crops."""
        r, f = Distributions.of_probabilities(relabel), Distributions.of_probabilities(fkd)
        return LabelStatistics(
            relabel_max=relabel.max(1),
            relabel_class=relabel.argmax(1),
            relabel_entropy=entropies(relabel),
            fkd_max=fkd.max(1),
            fkd_class=fkd.argmax(1),
            kl=(f.p * (f.log_p - r.log_p)).sum(1),
            area=area,
            truth=truth,
        )

    @staticmethod
    def concatenate(parts: Sequence["LabelStatistics"]) -> "LabelStatistics":
        """The statistics of all crops."""
        names = [field.name for field in fields(LabelStatistics)]
        return LabelStatistics(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


@dataclass(frozen=True)
class Criterion:
    """One of the four cases.

    Attributes:
        number: in Fig. 2's list.
        title: what such a crop shows.
        rule: in words.
        margins: by how much each condition is met, (conditions, n); below 0 it is not.
        rank: the larger, the clearer the case, (n,).
        describe: the values of crop i.
        has_nearest: whether a crop that does not meet it may be near to it.
    """

    number: int
    title: str
    rule: str
    margins: Callable[[LabelStatistics, int], np.ndarray]
    rank: Callable[[LabelStatistics], np.ndarray]
    describe: Callable[[LabelStatistics, int, int], str]
    has_nearest: bool = True


CRITERIA = (
    Criterion(
        1,
        "ReLabel is sure, FKD is not",
        f"ReLabel's maximum above {_SURE} and FKD's below {_UNSURE}",
        lambda s, num_classes: np.stack([s.relabel_max - _SURE, _UNSURE - s.fkd_max]),
        lambda s: s.relabel_max - s.fkd_max,
        lambda s, i, num_classes: (
            f"maximum {s.relabel_max[i]:.2f} of ReLabel, {s.fkd_max[i]:.2f} of FKD"
        ),
    ),
    Criterion(
        2,
        "equally sure, different labels",
        f"maxima less than {_SAME_MAX} apart and KL(FKD || ReLabel) above {_FAR:g}",
        lambda s, num_classes: np.stack(
            [_SAME_MAX - np.abs(s.relabel_max - s.fkd_max), s.kl - _FAR]
        ),
        lambda s: s.kl,
        lambda s, i, num_classes: (
            f"maximum {s.relabel_max[i]:.2f} of ReLabel, {s.fkd_max[i]:.2f} of FKD, "
            f"KL {s.kl[i]:.1f} nats"
        ),
    ),
    Criterion(
        3,
        "a small crop, and only FKD is right",
        f"area below {_SMALL:.0%}, FKD's first class true and ReLabel's not",
        lambda s, num_classes: np.stack(
            [
                _SMALL - s.area,
                np.where((s.truth >= 0) & (s.relabel_class != s.truth), 1.0, -1.0),
                np.where(s.fkd_class == s.truth, 1.0, -1.0),
            ]
        ),
        lambda s: s.fkd_max,
        lambda s, i, num_classes: f"area {s.area[i]:.0%}, FKD's true class {s.fkd_max[i]:.2f}",
        has_nearest=False,
    ),
    Criterion(
        4,
        "ReLabel says next to nothing",
        f"entropy of ReLabel above {_NO_IDEA} log C",
        lambda s, num_classes: (s.relabel_entropy - _NO_IDEA * np.log(num_classes))[None],
        lambda s: s.relabel_entropy,
        lambda s, i, num_classes: (
            f"entropy of ReLabel {s.relabel_entropy[i]:.2f} nats, "
            f"of at most {np.log(num_classes):.2f}"
        ),
    ),
)


@dataclass(frozen=True)
class Choice:
    """A crop that is shown for a criterion.

    Attributes:
        index: of the crop in the statistics.
        criterion: why.
        met: whether it meets the criterion, or is only the nearest to it.
        values: what it is judged by.
    """

    index: int
    criterion: Criterion
    met: bool
    values: str


def choose_examples(
    statistics: LabelStatistics, images: np.ndarray, num_classes: int, count: int
) -> tuple[list[Choice], list[str]]:
    """Up to `count` crops for each criterion, each of another image; and notes on those without.

    Args:
        statistics: of n crops.
        images: the image of each crop, (n,).
        num_classes: C.
        count: of crops a criterion.
    """
    choices: list[Choice] = []
    notes: list[str] = []
    taken: set[int] = set()
    for criterion in CRITERIA:
        if criterion.number == 3 and not (statistics.truth >= 0).any():
            notes.append(f"({criterion.number}) is left out: the true classes are not known")
            continue
        margin = criterion.margins(statistics, num_classes).min(0)
        order = np.argsort(-criterion.rank(statistics), kind="stable")
        chosen = _first_of_each(order[margin[order] > 0], images, taken, count)
        met = bool(chosen)
        if not met:
            notes.append(
                f"no crop of {len(statistics):,} meets ({criterion.number}) {criterion.rule}"
                + ("; the nearest is shown" if criterion.has_nearest else "")
            )
            if criterion.has_nearest:
                nearest = np.argsort(-margin, kind="stable")
                chosen = _first_of_each(nearest, images, taken, 1)
        choices += [
            Choice(i, criterion, met, criterion.describe(statistics, i, num_classes))
            for i in chosen
        ]
    return choices, notes


def _first_of_each(order: np.ndarray, images: np.ndarray, taken: set[int], count: int) -> list[int]:
    """The first crops in this order of `count` images that are not taken, which then are."""
    chosen: list[int] = []
    for i in order.tolist():
        image = int(images[i])
        if len(chosen) < count and image not in taken:
            chosen.append(i)
            taken.add(image)
    return chosen
