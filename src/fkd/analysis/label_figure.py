"""The figure of label examples: image, crop and labels, one row a crop (Fig. 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fkd.analysis.distance_figure import short
from fkd.analysis.figures import COLORS, figure_style, new_figure
from fkd.analysis.label_examples import Example, Strip
from fkd.crops.replay import resize
from fkd.models.classes import display_names

_IMAGE, _CROP, _STRIP = 1.5, 1.5, 1.75  # widths, inches
_GAP, _TITLE, _HEAD, _BODY = 0.18, 0.24, 0.2, 1.5  # heights of the parts of a row but for the gap
_MORE = 0.34  # height of each further class of a strip
_LONGEST_SIDE = 256  # pixels of an image in the figure, which an SVG file holds in full
_GRAY = "#777777"
_SMALL_NUMBERS = 6  # of other classes


@figure_style()
def draw_examples(
    examples: Sequence[Example], class_names: Sequence[str], shown_classes: int
) -> Any:
    """One row an example: the image with its crop box, the crop, and a strip for each label."""
    names = display_names(class_names)
    widths = [_IMAGE, _CROP, *[_STRIP] * max(len(example.strips) for example in examples)]
    body = _BODY + _MORE * max(0, shown_classes - 3)
    row = _TITLE + _HEAD + body + _GAP
    figure = new_figure(sum(widths) + _GAP * (len(widths) + 1), row * len(examples) + _GAP)
    figure.set_layout_engine("none")  # columns of all rows are to stand below each other
    left = [sum(widths[:i]) + _GAP * (i + 1) for i in range(len(widths))]
    for i, example in enumerate(examples):
        place = _Row(figure, figure.get_figheight() - _GAP - row * i, body)
        place.write(left[0], 0.0, _title_of(example), fontsize=9, fontweight="bold")
        place.write(left[0], _TITLE, _name_of(example))
        _draw_image(place.axes(left[0], _IMAGE), example)
        place.write(left[1], _TITLE, "crop, flipped" if example.flip else "crop")
        _show(place.axes(left[1], _CROP), example.crop)
        for x, strip in zip(left[2:], example.strips, strict=False):
            place.write(x, _TITLE, strip.title)
            _draw_strip(place.axes(x, _STRIP), strip, names, shown_classes)
    return figure


@dataclass(frozen=True)
class _Row:
    """A row of the figure; lengths in inches, from its left and its top downwards."""

    figure: Any
    top: float
    body: float

    def write(self, x: float, y: float, text: str, **options: Any) -> None:
        width, height = self.figure.get_size_inches()
        place = (x / width, (self.top - y) / height)
        self.figure.text(*place, text, va="top", **{"fontsize": 8, **options})

    def axes(self, x: float, width: float) -> Any:
        """Axes below title and heading; what is narrower or lower stays at their upper left."""
        across, high = self.figure.get_size_inches()
        bottom = self.top - _TITLE - _HEAD - self.body
        rectangle = (x / across, bottom / high, width / across, self.body / high)
        axes = self.figure.add_axes(rectangle, anchor="NW")
        axes.axis("off")
        return axes


def _title_of(example: Example) -> str:
    criterion = example.choice.criterion
    text = f"({criterion.number}) {criterion.title}: {example.choice.values}"
    return text if example.choice.met else f"nearest to {text}"


def _name_of(example: Example) -> str:
    return "image" if example.truth is None else f"image, class {short(example.truth, 20)}"


def _draw_image(axes: Any, example: Example) -> None:
    from matplotlib.patches import Rectangle

    image, scale = _shrink(example.image)
    _show(axes, image)
    top, left, height, width = (side * scale for side in example.box)
    for color, thickness in (("white", 3.0), (COLORS[1], 1.5)):  # seen on light and dark images
        box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=color)
        box.set_linewidth(thickness)
        axes.add_patch(box)


def _show(axes: Any, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="none")


def _shrink(image: Tensor) -> tuple[Tensor, float]:
    """The image with its longer side at most `_LONGEST_SIDE` pixels, and the scale."""
    height, width = image.shape[1:]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return (image if scale == 1.0 else resize(image, size, "bilinear")), scale


def _draw_strip(axes: Any, strip: Strip, names: Sequence[str], shown: int) -> None:
    """The first classes by name, probability and bar; of the others some numbers in gray."""
    order = np.argsort(-strip.probabilities, kind="stable")
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(-_BODY - _MORE * max(0, shown - 3), 0.0)  # inches
    for i, c in enumerate(order[:shown].tolist()):
        p, y = float(strip.probabilities[c]), -0.34 * i
        axes.text(0.0, y - 0.04, short(names[c]), va="top", fontsize=8)
        axes.text(1.0, y - 0.04, format_probability(p), va="top", ha="right", fontsize=8)
        axes.barh(y - 0.22, 1.0, height=0.05, color="#eeeeee")
        axes.barh(y - 0.22, p, height=0.05, color=COLORS[0])
    y = -0.34 * shown - 0.06
    for line in describe_others(strip.probabilities[order[shown:]]):
        axes.text(0.0, y, line, va="top", fontsize=6, color=_GRAY)
        y -= 0.14


def describe_others(probabilities: np.ndarray) -> list[str]:
    """Lines on the other classes, the most probable first: some numbers, and how much there is."""
    if not len(probabilities):
        return []
    if not probabilities.any():
        return [f"{len(probabilities):,} other classes, all 0"]
    first = "  ".join(format_probability(p) for p in probabilities[:_SMALL_NUMBERS].tolist())
    more = len(probabilities) > _SMALL_NUMBERS
    total = format_probability(float(probabilities.sum()))
    return [
        first + ("  \N{HORIZONTAL ELLIPSIS}" if more else ""),
        f"{len(probabilities):,} other classes, together {total}",
    ]


def format_probability(p: float) -> str:
    """Short enough for a strip: 0.93, 0.004, 2e-5, 0."""
    if p == 0.0:
        return "0"
    if p >= 0.01:
        return f"{p:.2f}"
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, _, exponent = f"{p:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
