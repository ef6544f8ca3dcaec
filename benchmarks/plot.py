"""Pictures of reports; needs matplotlib (pip install 'fkd[bench]')."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from fkd.errors import ConfigError

_OURS, _MISSED = "#2b6cb0", "#c05621"


def plot_rows(rows: Sequence[Row], file: Path) -> None:
    """One bar per row: the ratio with its spread; a line where its goal lies. Logarithmic.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    shown = [row for row in rows if row.ratio is not None][::-1]
    figure, axes = _figure(height=1.2 + 0.45 * len(shown))
    ratios = [row.ratio or 0.0 for row in shown]
    errors = [ratio * (row.spread or 0.0) / 2 for row, ratio in zip(shown, ratios, strict=True)]
    colors = [_MISSED if row.met is False else _OURS for row in shown]
    axes.barh(range(len(shown)), ratios, xerr=errors, color=colors, height=0.6, capsize=2)
    for y, row in enumerate(shown):
        if row.goal.endswith(" x"):
            goal = float(row.goal.split()[1])
            axes.plot([goal, goal], [y - 0.4, y + 0.4], color="black", linewidth=2)
    axes.set_xscale("log")
    names = [f"{row.name}\nagainst {row.against}" for row in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.axvline(1.0, color="gray", linewidth=0.8)
    axes.set_xlabel("times less than the peer costs (black: goal; whiskers: half the spread)")
    figure.savefig(file, dpi=120)


def plot_accuracies(bars: Mapping[str, tuple[float, float]], file: Path, title: str) -> None:
    """One bar per way of training: mean and standard deviation of its top-1, percent.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure, axes = _figure(height=1.2 + 0.35 * len(bars))
    means, deviations = zip(*list(bars.values())[::-1], strict=True)
    axes.barh(range(len(bars)), means, xerr=deviations, color=_OURS, height=0.6, capsize=2)
    axes.set_yticks(range(len(bars)), list(bars)[::-1], fontsize=7)
    lowest = min(mean - 2 * deviation for mean, deviation in bars.values())
    axes.set_xlim(left=max(0.0, lowest - 5.0))
    axes.set_xlabel("top-1, % (line: standard deviation; the axis does not begin at 0)")
    axes.set_title(title, fontsize=9)
    figure.savefig(file, dpi=120)


def _figure(height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(
            "plots need matplotlib; install it with: pip install 'fkd[bench]'"
        ) from error
    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots()
