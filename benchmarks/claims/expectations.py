"""What the paper says about its Tables 1 and 3, compared with the results."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import BASE, fkd_name

TEACHER_COST, VANILLA_SHARE, ONLINE_SHARE = 6.0, 1.0, 0.4


@dataclass(frozen=True)
class Result:
    """A row of a table.

    Attributes:
        name: of the row.
        accuracies: top-1 of the finished seeds, percent.
        seconds: their training time, whatever else the machine did; for a cost see `timing`.
        relative: seconds per epoch relative to vanilla; None where it was not timed.
        teacher_crops: crops that went through the teacher, for one student from scratch.
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
    def text(self) -> str:
        """Mean and, of several, standard deviation."""
        spread = f" ± {self.deviation:.2f}" if len(self.accuracies) > 1 else ""
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Outcome:
    """An expectation and its outcome.

    Attributes:
        expectation: what the paper says.
        figures: what was measured.
        holds: whether they meet it.
    """

    expectation: str
    figures: str
    holds: bool

    def __str__(self) -> str:
        return f"* {self.expectation}: {'yes' if self.holds else '**no**'} ({self.figures}).\n"


def check_expectations(
    config: ClaimsConfig, results: Sequence[Result], networks: Mapping[str, float]
) -> list[Outcome]:
    """The outcomes of expectations of which both sides are finished."""
    by_name = {result.name: result for result in results}
    most, small = config.crops_per_image, f"ms:{config.kept}"
    outcomes: list[Outcome] = []
    for m, codec in dict.fromkeys([(most, small), (1, small), (1, "full")]):
        ours = by_name.get(fkd_name(m, codec, config.epochs))
        if ours is not None:
            outcomes += _accuracies(f"FKD with m = {m}, {codec},", ours, m, by_name)
            outcomes += _costs(ours, by_name, networks) if (m, codec) == (most, small) else []
    return outcomes


def _accuracies(
    label: str, ours: Result, m: int, by_name: Mapping[str, Result]
) -> Iterator[Outcome]:
    """Against the others with as many crops of an image in a batch, and against those with one."""
    for other_m in dict.fromkeys((m, 1)):
        online = by_name.get(f"kd-m{other_m}")
        if online is not None:
            allowed = max(ours.deviation, online.deviation)
            yield Outcome(
                f"{label} is within one standard deviation (the larger one) of online KD with "
                f"m = {other_m}, or better",
                f"{_text(ours)} against {_text(online)}",
                ours.mean >= online.mean - allowed,
            )
    others = {"relabel": "ReLabel", f"vanilla-m{m}": f"vanilla training with m = {m}"}
    for name, peer in (others | {BASE.name: "vanilla training with m = 1"}).items():
        other = by_name.get(name)
        if other is not None:
            figures = f"{_text(ours)} against {_text(other)}"
            yield Outcome(f"{label} is above {peer}", figures, ours.mean > other.mean)


def _costs(
    ours: Result, by_name: Mapping[str, Result], networks: Mapping[str, float]
) -> Iterator[Outcome]:
    online = by_name.get("kd-m1")
    if ours.relative is not None:
        yield Outcome(
            f"an epoch of FKD takes at most {VANILLA_SHARE:.1f}x that of vanilla training",
            f"{ours.relative:.2f}x",
            ours.relative <= VANILLA_SHARE,
        )
    if ours.relative is not None and online is not None and online.relative is not None:
        share, cost = ours.relative / online.relative, networks.get("ratio", 0.0)
        yield Outcome(
            f"an epoch of FKD takes at most {ONLINE_SHARE}x that of online KD, with a teacher that "
            f"costs at least {TEACHER_COST:.0f}x the student",
            f"{share:.2f}x, the teacher's forward pass costs {cost:.1f}x",
            share <= ONLINE_SHARE and cost >= TEACHER_COST,
        )


def _text(result: Result) -> str:
    return f"{result.text} %, n = {len(result.accuracies)}"
