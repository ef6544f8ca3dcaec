"""One line of the table, and of the JSON file."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.harness import relative_range
from fkd.errors import FKDError

Costs = Sequence[float]
"""What one unit of work cost in each repeat: seconds or bytes."""


class Skipped(FKDError):
    """A measurement cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class Goal:
    """What a row should reach: a ratio of at least `limit`, or a figure of ours of at most it."""

    limit: float
    of_ratio: bool

    def is_met(self, ours: float, ratio: float | None) -> bool:
        """Whether the figure that the goal is about reaches the limit."""
        return ratio is not None and ratio >= self.limit if self.of_ratio else ours <= self.limit

    def text(self, unit: str) -> str:
        """For example ">= 4 x" or "<= 29 bytes / crop"."""
        return f">= {self.limit:g} x" if self.of_ratio else f"<= {self.limit:g} {unit}"


def at_least(limit: float) -> Goal:
    """The ratio should be at least this."""
    return Goal(limit, of_ratio=True)


def at_most(limit: float) -> Goal:
    """Our own figure should be at most this, in the unit of its row."""
    return Goal(limit, of_ratio=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        name: what is measured.
        against: what the peer is; empty where there is none.
        unit: of `ours` and `peer`.
        ours, peer: medians; None where a side was not measured.
        ratio: how many times less ours costs, from the medians.
        goal: what the ratio, or ours, should reach; empty where there is none.
        met: whether it does.
        n: repeats.
        spread: interquartile range of the ratios of single repeats (without a peer: of the
            figures) over their median.
        skipped: why nothing was measured; empty if it was.
        notes: what else is known, as values of JSON.
    """

    name: str
    against: str = ""
    unit: str = ""
    ours: float | None = None
    peer: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    n: int = 0
    spread: float | None = None
    skipped: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        name: str,
        ours: Costs,
        peer: Costs | None = None,
        *,
        unit: str,
        against: str = "",
        show: Callable[[float], float] = lambda cost: cost,
        goal: Goal | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> "Row":
        """The row of some costs, measured in turns with those of a peer or alone.

        Args:
            name: what is measured.
            ours, peer: of the same repeats in the same order.
            unit: of what `show` returns.
            against: what the peer is.
            show: turns a cost into the unit of the row.
            goal: if there is one.
            notes: what else is known.
        """
        figure, ratio, spread = show(statistics.median(ours)), None, relative_range([*ours])
        if peer is not None:
            ratio = statistics.median(peer) / statistics.median(ours)
            spread = relative_range([theirs / own for own, theirs in zip(ours, peer, strict=True)])
        return Row(
            name=name,
            against=against,
            unit=unit,
            ours=figure,
            peer=None if peer is None else show(statistics.median(peer)),
            ratio=ratio,
            goal="" if goal is None else goal.text(unit),
            met=None if goal is None else goal.is_met(figure, ratio),
            n=len(ours),
            spread=spread,
            notes=dict(notes or {}),
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as values of JSON."""
        return asdict(self)


def microseconds(seconds: float) -> float:
    """For `show`."""
    return seconds * 1e6


def milliseconds(seconds: float) -> float:
    """For `show`."""
    return seconds * 1e3


def per_second(seconds: float) -> float:
    """For `show`: from seconds for one to how many a second."""
    return 1.0 / seconds


def mebibytes(num_bytes: float) -> float:
    """For `show`."""
    return num_bytes / 2**20
