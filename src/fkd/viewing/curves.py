"""Learning curves as small SVG charts, made here: colors follow the page, nothing is loaded.

A chart is data that the template draws: paths in the coordinates of its box, ticks with their
labels, and a sentence for those who cannot see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 420, 250  # of a chart's box; a phone is not much wider, so its text stays readable
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 40  # room around the axes for ticks and their labels
MOST_POINTS = 400  # of one curve
_FEW_POINTS = 16  # which are marked, as the lines between them say nothing
_ENOUGH_TO_CUT = 50


@dataclass(frozen=True)
class Curve:
    """The values of one run.

    Attributes:
        name: of the run.
        style: number of its color.
        points: (x, value) in the order of x, at least one.
    """

    name: str
    style: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A number on an axis: where it is in the chart's box, and how it is written."""

    position: float
    label: str


@dataclass(frozen=True)
class Path:
    """What is drawn of a curve.

    Attributes:
        name: of the run, and its last value.
        style: number of its color.
        d: its line, as SVG has it.
        marks: (x, y) of points to mark: of a few all, else the last.
    """

    name: str
    style: int
    d: str
    marks: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart of one metric.

    Attributes:
        title: the metric.
        x_label: what is on the horizontal axis.
        x_ticks, y_ticks: numbers on the axes.
        paths: one per run.
        description: for those who cannot see the chart.
        notes: on what is not drawn as it is.
    """

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    paths: list[Path]
    description: str
    notes: list[str]


def draw_chart(title: str, x_label: str, curves: Sequence[Curve]) -> Chart:
    """The chart of these curves, at least one."""
    points = [np.array(curve.points, np.float64).reshape(-1, 2) for curve in curves]
    everything = np.concatenate(points)
    x_range = _padded(min(0.0, everything[:, 0].min()), everything[:, 0].max(), 0.0)
    low, high, notes = _value_range(everything[:, 1])
    if any(len(each) > MOST_POINTS for each in points):
        notes.append(f"Curves are thinned to {MOST_POINTS} points; no peak is left out.")
    y_range = _padded(low, high, 0.05)
    paths = [
        _path(curve, thin(each, MOST_POINTS), x_range, y_range)
        for curve, each in zip(curves, points, strict=True)
    ]
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=[Tick(_x(v, x_range), text) for v, text in ticks(*x_range, 6)],
        y_ticks=[Tick(_y(v, y_range), text) for v, text in ticks(*y_range, 7)],
        paths=paths,
        description=_describe(title, x_label, curves),
        notes=notes,
    )


def thin(points: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the points (n, 2): of each of equal parts the lowest and the highest.

    The first and the last are kept, so no peak is lost and the ends are true.
    """
    if len(points) <= most:
        return points
    inner = np.array_split(np.arange(1, len(points) - 1), max(1, (most - 2) // 2))
    chosen = {0, len(points) - 1}
    for part in inner:
        values = points[part, 1]
        chosen |= {int(part[values.argmin()]), int(part[values.argmax()])}
    return points[sorted(chosen)]


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round numbers from `low` to `high`, at most so many, with labels of equal precision."""
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9)), 10 * power)
    first = math.ceil(low / step - 1e-9)
    values = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    largest = max(abs(low), abs(high))
    if largest >= 1e5 or largest < 1e-3:
        return [(value, f"{value:.3g}") for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(value, f"{value:,.{decimals}f}") for value in values]


def _value_range(values: np.ndarray) -> tuple[float, float, list[str]]:
    """Lowest and highest value to show; a few that are far beyond all others are cut off."""
    low, high = float(values.min()), float(values.max())
    if len(values) < _ENOUGH_TO_CUT:
        return low, high, []
    bottom, top = np.percentile(values, [2, 98]).tolist()
    bound = top + 2 * (top - bottom)
    if not bottom < top or high <= bound:
        return low, high, []
    return low, bound, [f"Cut off above {bound:.3g}; the highest value is {high:.3g}."]


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """A range that is not empty, with a margin."""
    if not high > low:
        margin = abs(high) * 0.1 or 1.0
        return low - margin * (share > 0), high + margin
    return low - share * (high - low), high + share * (high - low)


def _path(
    curve: Curve, points: np.ndarray, x_range: tuple[float, float], y_range: tuple[float, float]
) -> Path:
    places = [(_x(x, x_range), _y(min(y, y_range[1]), y_range)) for x, y in points.tolist()]
    marked = places if len(places) <= _FEW_POINTS else places[-1:]
    return Path(
        name=f"{curve.name}: {points[-1, 1]:.4g} at the end",
        style=curve.style,
        d="M" + "L".join(f"{x:g},{y:g}" for x, y in places),
        marks=marked,
    )


def _x(value: float, bounds: tuple[float, float]) -> float:
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, bounds: tuple[float, float]) -> float:
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _describe(title: str, x_label: str, curves: Sequence[Curve]) -> str:
    ends = ", ".join(f"{curve.name} {curve.points[-1][1]:.4g}" for curve in curves[:8])
    more = f" and {len(curves) - 8} more" if len(curves) > 8 else ""
    return f"{title} over {x_label}; at the end: {ends}{more}"
