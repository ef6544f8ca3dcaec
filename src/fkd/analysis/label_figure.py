"""The figure of label examples: image, crop and labels, one row a crop (Fig. 2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fkd.analysis.distance_figure import short
from fkd.analysis.figures import COLORS, figure_style, new_figure
from fkd.analysis.label_examples import Example, Strip
from fkd.crops.replay import resize
from fkd.models.classes import display_names

_ROW = 1.95  # inches
_LONGEST_SIDE = 256  # pixels of an image in the figure, which an SVG file holds in full
_GRAY = "#777777"
_SMALL_NUMBERS = 8  # of other classes
_LINE = 0.2  # height of a class in a strip


@figure_style()
def draw_examples(
    examples: Sequence[Example], class_names: Sequence[str], shown_classes: int
) -> Any:
    """One row an example: the image with its crop box, the crop, and a strip for each label."""
    names = display_names(class_names)
    most = max(len(example.strips) for example in examples)
    row = _ROW + max(0, shown_classes - 3) * 0.3
    figure = new_figure(3.4 + 1.85 * most, row * len(examples))
    for part, example in zip(
        np.atleast_1d(figure.subfigures(len(examples), 1)), examples, strict=True
    ):
        _draw_title(part, example)
        axes = part.subplots(1, 2 + most, width_ratios=[1.25, 1.0, *[1.5] * most])
        _draw_image(axes[0], example)
        _draw_crop(axes[1], example)
        for place in axes[2:]:
            place.axis("off")
        for place, strip in zip(axes[2:], example.strips, strict=False):
            _draw_strip(place, strip, names, shown_classes)
    return figure


def _draw_title(part: Any, example: Example) -> None:
    criterion = example.choice.criterion
    text = f"({criterion.number}) {criterion.title}: {example.choice.values}"
    if not example.choice.met:
        text += "  [no crop meets it; this is the nearest]"
    part.suptitle(text, x=0.01, ha="left", fontsize=9, fontweight="bold")


def _draw_image(axes: Any, example: Example) -> None:
    from matplotlib.patches import Rectangle

    image, scale = _shrink(example.image)
    _show(axes, image)
    top, left, height, width = (side * scale for side in example.box)
    for color, thickness in (("white", 3.0), (COLORS[1], 1.5)):  # seen on light and dark images
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5), width, height,
                fill=False, edgecolor=color, linewidth=thickness,
            )
        )  # fmt: skip
    name = "image" if example.truth is None else f"image: {short(example.truth)}"
    axes.set_title(name, fontsize=8)


def _draw_crop(axes: Any, example: Example) -> None:
    _show(axes, example.crop)
    axes.set_title("crop, flipped" if example.flip else "crop", fontsize=8)


def _show(axes: Any, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="none")
    axes.axis("off")


def _shrink(image: Tensor) -> tuple[Tensor, float]:
    """The image with its longer side at most `_LONGEST_SIDE` pixels, and the scale."""
    height, width = image.shape[1:]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return (image if scale == 1.0 else resize(image, size, "bilinear")), scale


def _draw_strip(axes: Any, strip: Strip, names: Sequence[str], shown: int) -> None:
    """The first classes by name, probability and bar; of the others some numbers in gray."""
    order = np.argsort(-strip.probabilities, kind="stable")
    axes.set_title(strip.title, fontsize=8)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(-_LINE * (shown + 1.4), 0.0)
    for i, c in enumerate(order[:shown].tolist()):
        p, y = float(strip.probabilities[c]), -_LINE * i
        axes.text(0.0, y - 0.04, short(names[c]), va="top", fontsize=7)
        axes.text(1.0, y - 0.04, format_probability(p), va="top", ha="right", fontsize=7)
        axes.barh(y - 0.155, 1.0, height=0.03, color="#eeeeee")
        axes.barh(y - 0.155, p, height=0.03, color=COLORS[0])
    others = strip.probabilities[order[shown:]]
    y = -_LINE * shown - 0.06
    for line in describe_others(others):
        axes.text(0.0, y, line, va="top", fontsize=5.5, color=_GRAY)
        y -= 0.09


def describe_others(probabilities: np.ndarray) -> list[str]:
    """Lines on the other classes, the most probable first: some numbers, and how much there is."""
    if not len(probabilities):
        return []
    first = "  ".join(format_probability(p) for p in probabilities[:_SMALL_NUMBERS].tolist())
    more = len(probabilities) > _SMALL_NUMBERS
    total = format_probability(float(probabilities.sum()))
    return [
        first + ("  \N{HORIZONTAL ELLIPSIS}" if more else ""),
        f"{len(probabilities):,} other classes, together {total}",
    ]


def format_probability(p: float) -> str:
    """Short enough for a strip: 0.93, 0.004, 2e-5."""
    if p >= 0.01 or p == 0.0:
        return f"{p:.2f}"
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, _, exponent = f"{p:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
