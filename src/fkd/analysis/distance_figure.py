"""The figure of the distances: the matrix with its numbers, and a curve over the classes of each
pair of Fig. 3."""

from typing import Any

import numpy as np

from fkd.analysis.distance import GROUPS, Distances, Pair, groups_of
from fkd.analysis.figures import COLORS, figure_style, new_figure, plain
from fkd.analysis.samples import describe_classes
from fkd.errors import escape_controls
from fkd.models.classes import display_names

_CELL = 0.62  # inches
_PANEL = 2.1
_NAMED = 30  # classes that an axis has names for, at most
_UPRIGHT = 6  # of these, names that stand beside each other
_LONGEST = 22  # characters of a name
_LINES = ("-", "--", ":", "-.")  # one a target
_DARK = 0.55  # of a color map, from which on text on it is white


@figure_style()
def draw_distances(distances: Distances) -> Any:
    """The matrix D_{A->B} above, one panel of curves a group below."""
    groups = groups_of(distances.sources) if len(distances.class_names) > 1 else {}
    side = len(distances.sources)
    heights = [_CELL * side + 0.9, *(_PANEL for _ in groups)]
    figure = new_figure(max(7.5, _CELL * 1.5 * side + 3.0), sum(heights) + 0.4)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    _draw_matrix(figure.add_subplot(grid[0]), distances)
    for i, (group, pairs) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[i + 1])
        _draw_curves(axes, distances, pairs)
        axes.set_title(GROUPS[group])
        is_last = i + 1 == len(groups)
        _label_classes(axes, distances.class_names, named=is_last)
    return figure


def short(name: str, longest: int = _LONGEST) -> str:
    """A name of the user's as a figure shows it."""
    text = escape_controls(name)
    return plain(text if len(text) <= longest else text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}")


def _draw_matrix(axes: Any, distances: Distances) -> None:
    mean, std, side = distances.mean, distances.std, len(distances.sources)
    is_single = len(distances.class_names) == 1
    highest = np.nanmax(mean) if not np.isnan(mean).all() else 1.0
    shown = axes.imshow(mean, cmap="Blues", vmin=0.0, vmax=highest or 1.0, aspect="auto")
    for a, b in np.ndindex(side, side):
        value = mean[a, b]
        if np.isnan(value):
            axes.text(b, a, "not defined", ha="center", va="center", color="#777777", fontsize=7)
            continue
        color = "white" if shown.norm(value) > _DARK else "black"
        y = a if is_single else a - 0.1
        axes.text(b, y, f"{value:.2f}", ha="center", va="center", color=color)
        if not is_single:
            axes.text(
                b, a + 0.24, f"\N{PLUS-MINUS SIGN}{std[a, b]:.2f}",
                ha="center", va="center", color=color, fontsize=6,
            )  # fmt: skip
    names = [short(source.name) for source in distances.sources]
    axes.set_xticks(range(side), names, rotation=0 if side <= 6 else 30)
    axes.set_yticks(range(side), names)
    axes.set_xlabel("B, the target")
    axes.set_ylabel("A, inside the logarithm")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("#eeeeee")
    num = f"{int(distances.num_crops.sum()):,} crops {describe_classes(distances.class_names)}"
    shows = "" if is_single else ": mean \N{PLUS-MINUS SIGN} standard deviation over classes"
    axes.set_title(
        f"Cross-entropy of A where B is right, nats{shows}\n"
        f"({num}; on the diagonal the entropy of each)"
    )


def _draw_curves(axes: Any, distances: Distances, pairs: list[Pair]) -> None:
    """One curve a pair: the color is that of A in all panels, the kind of line that of B."""
    targets = list(dict.fromkeys(b for _, b in pairs))
    num_targets = sum(source.kind == "truth" for source in distances.sources)  # never an A
    positions = range(len(distances.class_names))
    for a, b in pairs:
        curve = distances.per_class[:, a, b]
        name = " \N{RIGHTWARDS ARROW} ".join(short(distances.sources[each].name) for each in (a, b))
        axes.plot(
            positions,
            curve,
            _LINES[targets.index(b) % len(_LINES)],
            color=COLORS[(a - num_targets) % len(COLORS)],
            linewidth=1.1,
            marker="o",
            markersize=2.2,
            label=f"{name}  {distances.mean[a, b]:.2f}",
        )
    highest = max(float(distances.per_class[:, a, b].max()) for a, b in pairs)
    axes.set_ylim(0.0, 1.08 * highest or 1.0)
    axes.set_xlim(-0.5, len(positions) - 0.5)
    axes.set_ylabel("nats")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.005, 1.05),
        fontsize=7,
        title="A \N{RIGHTWARDS ARROW} B, mean",
    )


def _label_classes(axes: Any, class_names: tuple[str, ...], *, named: bool) -> None:
    """Names below the last panel, as far as there is room for them."""
    if len(class_names) <= _NAMED:
        names = [short(name, 18) for name in display_names(class_names)]
        tilted = {"rotation": 60, "ha": "right"} if len(names) > _UPRIGHT else {}
        axes.set_xticks(range(len(names)), names, fontsize=6 if tilted else 8, **tilted)
    elif named:
        axes.set_xlabel("class, in the order of the labels")
    axes.tick_params(labelbottom=named)
