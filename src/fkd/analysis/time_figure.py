"""The figure of the analysis of time: one bar a method, cut into the stages of a step."""

from collections.abc import Sequence
from typing import Any

from fkd.analysis.figures import figure_style, new_figure
from fkd.analysis.step_time import REST, StepTimes, TimeReport

# What a stage is called and its color: images blue, labels red, the teacher purple, the student
# green, waiting and the rest gray.
SHOWN = {
    "read": ("image read", "#08306b"),
    "decode": ("decode", "#2171b5"),
    "crop": ("crop", "#6baed6"),
    "label_read": ("label read", "#67000d"),
    "label_preparation": ("label preparation", "#ef3b2c"),
    "wait": ("wait for the loader", "#bdbdbd"),
    "transfer": ("copy, normalize", "#c7e9c0"),
    "teacher": ("teacher forward", "#9e6fc6"),
    "forward": ("student forward", "#74c476"),
    "loss": ("loss", "#fdae6b"),
    "backward": ("backward", "#238b45"),
    "optimizer": ("optimizer", "#00441b"),
    REST: ("rest", "#636363"),
}
_TINY = 1e-12


@figure_style()
def draw_time(report: TimeReport) -> Any:
    """Milliseconds per crop, and time of an epoch: above with an inline loader, below with
    workers."""
    panels = [rows for rows in (report.inline, report.with_workers) if rows]
    heights = [len(rows) + 1.6 for rows in panels]
    figure = new_figure(7.5, 0.9 + 0.33 * sum(heights))
    layout = {"squeeze": False, "sharex": True, "height_ratios": heights}
    all_axes = figure.subplots(len(panels), **layout)[:, 0]
    for axes, rows in zip(all_axes, panels, strict=True):
        _draw_panel(axes, rows, _epoch_unit([row for panel in panels for row in panel]))
    all_axes[0].set_xlim(0.0, 1.25 * _longest(report.rows))  # room for the numbers
    figure.legend(*_legend(all_axes), loc="outside upper left", ncols=5, fontsize=7)
    return figure


def _draw_panel(axes: Any, rows: Sequence[StepTimes], unit: tuple[str, float]) -> None:
    workers = rows[0].num_workers
    thickness = 0.4 if workers else 0.7
    for y, row in enumerate(rows):
        center = y - 0.2 if workers else y
        end = _draw_bar(axes, center, thickness, row.parts, row)
        plain = 1e3 * row.step / row.crops_per_step
        axes.plot([plain, plain], [center - 0.28, center + 0.28], color="black", lw=1.2)
        share = 100 * row.label_share("label_read", "label_preparation")
        text = f"{plain:.3g} ms, labels {share:.2g} %" if row.method in ("relabel", "fkd") else ""
        place = (max(end, plain), center)
        axes.annotate(
            text or f"{plain:.3g} ms",
            place,
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
        if workers:
            _draw_bar(axes, y + 0.2, 0.3, row.beside, row, hatch="////", alpha=0.75)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel("ms per crop")
    axes.tick_params(labelbottom=True)
    what = "Inline loader: the stages are all of the step"
    if workers:
        what = f"{workers} loader workers (hatched: their work, beside the step)"
    axes.set_title(what)
    name, seconds = unit
    per_epoch = rows[0].num_images / 1e3 / seconds  # of 1 ms a crop
    top = axes.secondary_xaxis(
        "top", functions=(lambda ms: ms * per_epoch, lambda time: time / per_epoch)
    )
    top.tick_params(labelsize=7)
    top.set_xlabel(f"{name} per epoch of {rows[0].num_images:,} images", fontsize=7)


def _draw_bar(
    axes: Any,
    y: float,
    thickness: float,
    parts: dict[str, float],
    row: StepTimes,
    **style: Any,
) -> float:
    """The stages of a step side by side; returns where they end, ms per crop."""
    left = 0.0
    for stage, (_, color) in SHOWN.items():
        width = max(0.0, 1e3 * parts.get(stage, 0.0) / row.crops_per_step)
        if width > _TINY:
            axes.barh(
                y,
                width,
                thickness,
                left=left,
                color=color,
                label=stage,
                edgecolor="white",
                linewidth=0.2,
                **style,
            )
        left += width
    return left


def _longest(rows: Sequence[StepTimes]) -> float:
    """The longest bar or mark, ms per crop."""
    return max(
        1e3 * seconds / row.crops_per_step
        for row in rows
        for seconds in (row.step, sum(row.parts.values()), sum(row.beside.values()))
    )


def _legend(all_axes: Any) -> tuple[list[Any], list[str]]:
    """Every stage that is drawn somewhere, once, and the mark of plain training."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    drawn = {bars.get_label() for axes in all_axes for bars in axes.containers}
    shown = [SHOWN[stage] for stage in SHOWN if stage in drawn]
    handles: list[Any] = [Patch(color=color) for _, color in shown]
    mark = Line2D([], [], color="black", marker="|", linestyle="none", markersize=8)
    return [*handles, mark], [*(label for label, _ in shown), "plain step, not observed"]


def _epoch_unit(rows: Sequence[StepTimes]) -> tuple[str, float]:
    """A unit in which epochs have handy numbers, and its seconds."""
    longest = max(row.seconds_per_epoch for row in rows)
    if longest < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest < 300 * 60 else ("hours", 3600.0)
