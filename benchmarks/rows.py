"""What a measurement says: one line of the table, and of the JSON file."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.harness import Comparison, compare, relative_range
from fkd.errors import FKDError

_RATIO_UNIT = "x"


class Skipped(FKDError):
    """A measurement cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class Goal:
    """What a row should reach.

    Attributes:
        limit: the number to reach.
        least: whether the figure shall be at least the limit, else at most.
        of: the figure: "ratio", or "ours".
    """

    limit: float
    least: bool = True
    of: str = "ratio"

    @staticmethod
    def times(limit: float) -> "Goal":
        """A ratio of at least `limit`."""
        return Goal(limit)

    @staticmethod
    def below(limit: float) -> "Goal":
        """Our own figure at most `limit`, in the unit of its row."""
        return Goal(limit, least=False, of="ours")

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether the figure reaches the limit."""
        figure = ours if self.of == "ours" or ratio is None else ratio
        return figure >= self.limit if self.least else figure <= self.limit

    def text(self, unit: str) -> str:
        """For example ">= 80 x"."""
        sign = ">=" if self.least else "<="
        return f"{sign} {self.limit:g} {unit if self.of == 'ours' else _RATIO_UNIT}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        name: what is measured.
        against: what the peer is.
        unit: of `ours` and `peer`.
        ours, peer: medians; None where a side was not measured.
        ratio: how many times better ours is, whatever "better" means for the unit.
        goal: what the ratio, or ours, should reach; empty where there is none.
        met: whether it does.
        n: repeats.
        spread: interquartile range of the ratios of single repeats over their median.
        skipped: why nothing was measured; empty if it was.
        notes: what else is known, in values of JSON.
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
        found: Comparison,
        *,
        against: str,
        unit: str,
        show: Callable[[float], float] = lambda cost: cost,
        goal: Goal | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> "Row":
        """The row of a comparison; `show` turns a cost (seconds, bytes) into the row's unit."""
        ours = show(found.ours)
        return Row(
            name=name,
            against=against,
            unit=unit,
            ours=ours,
            peer=show(found.peer),
            ratio=found.ratio,
            goal="" if goal is None else goal.text(unit),
            met=None if goal is None else goal.met(ours, found.ratio),
            n=found.n,
            spread=found.spread,
            notes=dict(notes or {}),
        )

    @staticmethod
    def alone(
        name: str,
        costs: list[float],
        *,
        unit: str,
        goal: Goal,
        show: Callable[[float], float] = lambda cost: cost,
        notes: Mapping[str, Any] | None = None,
    ) -> "Row":
        """The row of a figure that has no peer, only a goal; the spread is that of the figure."""
        ours = show(compare(costs, costs).ours)
        return Row(
            name=name,
            unit=unit,
            ours=ours,
            goal=goal.text(unit),
            met=goal.met(ours, None),
            n=len(costs),
            spread=relative_range(costs),
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
