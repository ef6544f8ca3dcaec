"""Distances between labels of the same crops: Eq. 2 and Fig. 3 of the paper.

    D_{A->B} = -sum_c P_B(c) log P_A(c)

B is the target and A stands inside the logarithm, so D_{A->B} is the loss of a student that says A
where B is right; D_{A->A} is the mean entropy of A. A source that is 0 for some classes, such as
the true class, has no D_{A->B} and is a target only.

Source: FKD (Shen and Xing, ECCV 2022), Eq. 2 and Fig. 3.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fkd.analysis.label_sources import Distributions
from fkd.models.classes import display_names

Kind = Literal["truth", "relabel", "fkd", "model"]
Pair = tuple[int, int]

GROUPS = {
    "labels": "(2) labels against labels",
    "truth": "(3) models against the true class",
    "models": "(4) models against labels",
}
"""The comparisons of Fig. 3, by its numbers."""


@dataclass(frozen=True)
class Source:
    """Something that says a probability for each class of a crop.

    Attributes:
        name: in figures and tables.
        kind: of it.
        description: what it is.
        undefined: why it cannot stand inside a logarithm; None if it can.
    """

    name: str
    kind: Kind
    description: str
    undefined: str | None = None


@dataclass(frozen=True)
class Distances:
    """D_{A->B} of every pair of sources; NaN where A cannot stand inside a logarithm.

    Attributes:
        sources: S of them.
        class_names: groups of crops.
        num_crops: crops of each class, int64 (classes,).
        per_class: mean over the crops of each class, nats, float64 (classes, S, S): [:, A, B].
    """

    sources: tuple[Source, ...]
    class_names: tuple[str, ...]
    num_crops: np.ndarray
    per_class: np.ndarray

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean over classes, (S, S)."""
        mean: np.ndarray = self.per_class.mean(0)
        return mean

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation over classes, (S, S); NaN of one class."""
        if len(self.per_class) < 2:
            return np.full(self.mean.shape, np.nan)
        std: np.ndarray = self.per_class.std(0, ddof=1)
        return std

    def name_of(self, pair: Pair) -> str:
        """For example "ReLabel → FKD"."""
        return " \N{RIGHTWARDS ARROW} ".join(self.sources[i].name for i in pair)

    def to_json(self) -> dict[str, Any]:
        """Everything, in JSON's types; null where a distance is undefined."""
        pairs = np.ndindex(*self.mean.shape)
        return {
            "sources": [asdict(source) for source in self.sources],
            "num_crops": int(self.num_crops.sum()),
            "classes": [
                {"name": name, "display": shown, "num_crops": count}
                for name, shown, count in zip(
                    self.class_names,
                    display_names(self.class_names),
                    self.num_crops.tolist(),
                    strict=True,
                )
            ],
            "distances": [
                {
                    "a": self.sources[a].name,
                    "b": self.sources[b].name,
                    "mean": _number(float(self.mean[a, b])),
                    "std": _number(float(self.std[a, b])),
                    "per_class": [_number(d) for d in self.per_class[:, a, b].tolist()],
                }
                for a, b in pairs
            ],
            "groups": {
                GROUPS[group]: [self.name_of(pair) for pair in pairs_of_group]
                for group, pairs_of_group in groups_of(self.sources).items()
            },
        }


def cross_entropies(labels: Sequence[Distributions]) -> np.ndarray:
    """D_{A->B} of each of n crops for every pair of S sources, nats, float64 (n, S, S): [:, A, B].

    Source: FKD, Eq. 2.
    """
    log_p = np.stack([each.log_p for each in labels], axis=1)
    p = np.stack([each.p for each in labels], axis=2)
    distances: np.ndarray = -np.matmul(log_p, p)
    return distances


def summarize_distances(
    sources: Sequence[Source],
    class_names: Sequence[str],
    groups: np.ndarray,
    distances: np.ndarray,
) -> Distances:
    """Means of each class.

    Args:
        sources: S.
        class_names: of the groups.
        groups: the class of each crop, int64 (n,); every class has one.
        distances: from `cross_entropies`, (n, S, S).
    """
    counts = np.bincount(groups, minlength=len(class_names))
    total = np.zeros((len(class_names), *distances.shape[1:]))
    np.add.at(total, groups, distances)
    per_class = total / counts[:, None, None]
    per_class[:, [source.undefined is not None for source in sources]] = np.nan
    return Distances(tuple(sources), tuple(class_names), counts, per_class)


def groups_of(sources: Sequence[Source]) -> dict[str, list[Pair]]:
    """The pairs (A, B) of each comparison of Fig. 3 that there is something of."""
    of_kind = {
        kind: [i for i, source in enumerate(sources) if source.kind == kind]
        for kind in ("truth", "relabel", "fkd", "model")
    }
    stored = of_kind["relabel"] + of_kind["fkd"]
    groups = {
        "labels": [(r, f) for r in of_kind["relabel"] for f in of_kind["fkd"]]
        + [(label, truth) for label in stored for truth in of_kind["truth"]],
        "truth": [(model, truth) for model in of_kind["model"] for truth in of_kind["truth"]],
        "models": [
            (model, label)
            for label in of_kind["fkd"] + of_kind["relabel"]
            for model in of_kind["model"]
        ],
    }
    defined = {
        group: [(a, b) for a, b in pairs if sources[a].undefined is None]
        for group, pairs in groups.items()
    }
    return {group: pairs for group, pairs in defined.items() if pairs}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
