"""What the paper says about its Tables 1 and 3, held against what came out."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import BASE, fkd_name

TEACHER_COST, OF_VANILLA, OF_ONLINE = 6.0, 1.0, 0.4


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        name: of the row.
        accuracies: top-1 of the finished seeds, percent.
        seconds: their training time with whatever else the machine did; see `timing` for a cost.
        relative: seconds per epoch relative to vanilla; None where it was not timed.
        teacher_crops: crops that the teacher looked at, for one student from scratch.
        label_bytes: per image.
    """

    name: str
    accuracies: list[float]
    seconds: list[float]
    relative: float | None
    teacher_crops: int
    label_bytes: float

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracies; 0 for a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def told(self) -> str:
        """Mean and, of several, standard deviation."""
        spread = f" ± {self.deviation:.2f}" if len(self.accuracies) > 1 else ""
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Verdict:
    """An expectation and its outcome.

    Attributes:
        says: the expectation.
        found: the figures.
        holds: whether they meet it.
    """

    says: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"* {self.says}: {'yes' if self.holds else '**no**'} ({self.found}).\n"


def judge(
    config: ClaimsConfig, lines: Sequence[Line], networks: Mapping[str, float]
) -> list[Verdict]:
    """The expectations for which both sides are finished; nothing is said of others."""
    by_name = {line.name: line for line in lines}
    most, small = config.crops_per_image, f"ms:{config.kept}"
    found = []
    for m, codec in dict.fromkeys([(most, small), (1, small), (1, "full")]):
        ours = by_name.get(fkd_name(m, codec, config.epochs))
        if ours is not None:
            found += _accuracies(f"FKD with m = {m}, {codec},", ours, m, by_name)
            found += _costs(ours, by_name, networks) if (m, codec) == (most, small) else []
    return found


def _accuracies(called: str, ours: Line, m: int, by_name: Mapping[str, Line]) -> Iterator[Verdict]:
    """Against the others with as many crops of an image in a batch, and against those with one."""
    for other_m in dict.fromkeys((m, 1)):
        online = by_name.get(f"kd-m{other_m}")
        if online is not None:
            allowed = max(ours.deviation, online.deviation)
            yield Verdict(
                f"{called} is within one standard deviation (the larger one) of online KD with "
                f"m = {other_m}, or better",
                f"{_told(ours)} against {_told(online)}",
                ours.mean >= online.mean - allowed,
            )
    others = {"relabel": "ReLabel", f"vanilla-m{m}": f"vanilla training with m = {m}"}
    for name, rival in (others | {BASE.name: "vanilla training with m = 1"}).items():
        other = by_name.get(name)
        if other is not None:
            found = f"{_told(ours)} against {_told(other)}"
            yield Verdict(f"{called} is above {rival}", found, ours.mean > other.mean)


def _costs(
    ours: Line, by_name: Mapping[str, Line], networks: Mapping[str, float]
) -> Iterator[Verdict]:
    online = by_name.get("kd-m1")
    if ours.relative is not None:
        yield Verdict(
            f"an epoch of FKD takes at most {OF_VANILLA:.1f}x that of vanilla training",
            f"{ours.relative:.2f}x",
            ours.relative <= OF_VANILLA,
        )
    if ours.relative is not None and online is not None and online.relative is not None:
        share, cost = ours.relative / online.relative, networks.get("ratio", 0.0)
        yield Verdict(
            f"an epoch of FKD takes at most {OF_ONLINE}x that of online KD, with a teacher that "
            f"costs at least {TEACHER_COST:.0f}x the student",
            f"{share:.2f}x, the teacher's forward pass costs {cost:.1f}x",
            share <= OF_ONLINE and cost >= TEACHER_COST,
        )


def _told(line: Line) -> str:
    return f"{line.told} %, n = {len(line.accuracies)}"
