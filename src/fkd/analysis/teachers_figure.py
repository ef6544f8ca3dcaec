"""Teachers side by side: entropies, calibration, agreement with each other, and cost."""

from typing import Any

import numpy as np

from fkd.analysis.figures import COLORS, figure_style, new_figure, plain
from fkd.analysis.teacher_rows import TeacherRow, TeachersReport
from fkd.errors import escape_controls

_LINES = ("-", ":", "-.")
_NAME = 18  # characters of a name
_DARK = 0.8  # agreement above which a cell is dark


@figure_style()
def draw_teachers(report: TeachersReport) -> Any:
    """Four panels; rows keep the order of the report."""
    count = len(report.rows)
    figure = new_figure(9.0, 6.4 + 0.22 * max(0, count - 4))
    (entropies, calibration), (agreement, cost) = figure.subplots(2, 2)
    for i, row in enumerate(report.rows):
        line = "--" if row.kind == "store" else _LINES[i // len(COLORS) % len(_LINES)]
        style = {"color": COLORS[i % len(COLORS)], "ls": line}
        _draw_entropies(entropies, row, len(report.class_names), style)
        _draw_calibration(calibration, row, style)
    _finish_entropies(entropies)
    _finish_calibration(calibration, report)
    _draw_agreement(agreement, report)
    _draw_cost(cost, report)
    return figure


def _name(row: TeacherRow) -> str:
    name = plain(escape_controls(row.name))
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}\u2026"


def _draw_entropies(axes: Any, row: TeacherRow, num_classes: int, style: dict[str, str]) -> None:
    shares = row.labels.entropy_histogram
    edges = np.linspace(0, np.log(max(2, num_classes)), len(shares) + 1)
    axes.stairs(100 * np.array(shares), edges, label=_name(row), lw=1.3, **style)
    axes.axvline(row.labels.entropy, lw=0.8, alpha=0.7, **style)


def _finish_entropies(axes: Any) -> None:
    axes.set_title("entropy of labels (lines: mean)")
    axes.set_xlabel("nats, up to the logarithm of the number of classes")
    axes.set_ylabel("crops, %")
    axes.set_xlim(left=0)
    axes.legend(fontsize=7)


def _draw_calibration(axes: Any, row: TeacherRow, style: dict[str, str]) -> None:
    bins = row.labels.bins
    if not bins:
        return
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], lw=0.8, alpha=0.5, **style)
    sizes = [6 + 120 * b.num / row.labels.num_known for b in bins]
    axes.scatter(
        [b.confidence for b in bins],
        [b.accuracy for b in bins],
        s=sizes,
        color=style["color"],
        alpha=0.8,
        linewidths=0,
    )


def _finish_calibration(axes: Any, report: TeachersReport) -> None:
    axes.plot([0, 1], [0, 1], color=COLORS[6], lw=0.8, ls=":")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    axes.set_title("calibration on crops (dotted: perfect; area: crops)")
    axes.set_xlabel("highest probability")
    axes.set_ylabel("share that is right")
    if not any(row.labels.bins for row in report.rows):
        axes.text(0.5, 0.4, "the true classes are not known", ha="center", fontsize=8)


def _draw_agreement(axes: Any, report: TeachersReport) -> None:
    shares = np.array(
        [[np.nan if c is None else c.top1_agreement for c in row] for row in report.agreement]
    )
    axes.imshow(shares, vmin=0, vmax=1.3, cmap="Blues", aspect="auto")
    size = 8 if len(shares) < 6 else 6
    for i, row in enumerate(report.agreement):
        for j, compared in enumerate(row):
            text = "other\ncrops"
            if compared is not None:
                text = f"{compared.top1_agreement:.1%}\nKL {compared.mean_kl:.2f}"
            color = "white" if shares[i, j] > _DARK else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=color)
    names = [_name(row) for row in report.rows]
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=30 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("top-1 agreement, and KL(row || column) in nats")


def _draw_cost(axes: Any, report: TeachersReport) -> None:
    rows = [(i, row) for i, row in enumerate(report.rows) if row.cost is not None]
    axes.set_title(f"cost of a crop ({report.device})")
    if not rows:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "stores were paid for", ha="center", fontsize=8)
        return
    values = [row.cost.milliseconds for _, row in rows if row.cost]
    colors = [COLORS[i % len(COLORS)] for i, _ in rows]
    bars = axes.barh(range(len(rows)), values, color=colors, height=0.6)
    said = [
        f"{row.cost.milliseconds:.3g} ms, {row.cost.macs / 1e9:.3g} GMACs, {row.cost.input_size} px"
        for _, row in rows
        if row.cost
    ]
    axes.bar_label(bars, said, padding=3, fontsize=7)
    axes.set_yticks(range(len(rows)), [_name(row) for _, row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.9 * max(values))  # room for the text
    axes.set_xlabel("milliseconds")
