"""Pictures of reports; needs matplotlib (pip install 'fkd[bench]')."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from fkd.errors import ConfigError

_OURS, _MISSED = "#2b6cb0", "#c05621"
Series = Mapping[str, Sequence[float]]


def plot_rows(rows: Sequence[Row], file: Path, title: str) -> None:
    """One bar a row: the ratio, with its spread; a line where its goal lies. Logarithmic.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    shown = [row for row in rows if row.ratio is not None][::-1]
    figure, axes = _figure(height=1.2 + 0.45 * len(shown))
    names = [f"{row.name}\nagainst {row.against}" for row in shown]
    ratios = [row.ratio or 0.0 for row in shown]
    errors = [ratio * (row.spread or 0.0) / 2 for row, ratio in zip(shown, ratios, strict=True)]
    colors = [_MISSED if row.met is False else _OURS for row in shown]
    axes.barh(range(len(shown)), ratios, xerr=errors, color=colors, height=0.6, capsize=2)
    for place, row in enumerate(shown):
        if row.goal.endswith(" x"):
            goal = float(row.goal.split()[1])
            axes.plot([goal, goal], [place - 0.4, place + 0.4], color="black", linewidth=2)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.axvline(1.0, color="gray", linewidth=0.8)
    axes.set_xlabel("times better than the peer (black: goal; bar ends: half the spread)")
    _finish(figure, axes, file, title)


def plot_accuracies(bars: Mapping[str, tuple[float, float]], file: Path, title: str) -> None:
    """One bar a way of training: mean and standard deviation of its top-1, percent.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure, axes = _figure(height=1.2 + 0.35 * len(bars))
    means, deviations = zip(*list(bars.values())[::-1], strict=True)
    places = range(len(bars))
    axes.barh(places, means, xerr=deviations, color=_OURS, height=0.6, capsize=2)
    axes.set_yticks(places, list(bars)[::-1], fontsize=7)
    lowest = min(mean - 2 * spread for mean, spread in bars.values())
    axes.set_xlim(left=max(0.0, lowest - 5.0))
    axes.set_xlabel("top-1, % (line: standard deviation; the axis does not begin at 0)")
    _finish(figure, axes, file, title)


def plot_growth(series: Series, file: Path, title: str, across: str, up: str) -> None:
    """Lines over the member "x" of `series`; both axes logarithmic unless x begins at 0.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure, axes = _figure(height=3.5)
    for name, values in series.items():
        if name != "x":
            axes.plot(series["x"], values, marker="o", label=name)
    if min(series["x"]) > 0:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    _finish(figure, axes, file, title)


def _figure(height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(
            "plots need matplotlib; install it with: pip install 'fkd[bench]'"
        ) from error
    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots()


def _finish(figure: Any, axes: Any, file: Path, title: str) -> None:
    axes.set_title(title, fontsize=9)
    figure.savefig(file, dpi=120)
