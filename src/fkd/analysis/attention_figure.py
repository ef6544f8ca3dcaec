"""The figure and the numbers of `fkd.analysis.attention`: images in rows, models in columns."""

import textwrap
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkd.analysis.attention import (
    AREA_ABOVE,
    AttentionReport,
    Explanation,
    ModelAttention,
)
from fkd.analysis.figures import figure_style, plain
from fkd.analysis.grad_cam import enlarge_maps
from fkd.crops.replay import resize
from fkd.data.sources import load
from fkd.errors import escape_controls
from fkd.models.classes import display_names

# Inches.
_CELL, _GAP, _BETWEEN, _MARGIN = 1.25, 0.05, 0.22, 0.12
_HEADER, _CAPTION, _LINE = 0.91, 0.3, 0.13
_POINTS_PER_INCH = 72
_SMALL, _LABEL = 7, 9  # points
_WIDTH_OF_A_CHARACTER = 0.6  # of its height, the widest mean of usual texts
_PIXELS = 200  # of an image in the figure
_STRONGEST = 0.995  # gradients are shown up to this quantile, so that a few do not hide the others


def summarize(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean, sample standard deviation and number of the values that are no NaN.

    Example:
        >>> summarize(np.array([1.0, np.nan, 3.0]))
        {'mean': 2.0, 'std': 1.4142135623730951, 'n': 2}
    """
    finite = values[np.isfinite(values)].tolist()
    return {
        "mean": fmean(finite) if finite else None,
        "std": stdev(finite) if len(finite) > 1 else None,
        "n": len(finite),
    }


def attention_numbers(report: AttentionReport) -> dict[str, Any]:
    """Everything that the figure shows and that it summarizes, in JSON's types."""
    return {
        "settings": asdict(report.config),
        "area_above": AREA_ABOVE,
        "images": {
            "shown": [report.source.name(i) for i in report.shown],
            "measured": [report.source.name(i) for i in report.measured],
        },
        "models": [_numbers_of(model) for model in report.models],
    }


def _numbers_of(model: ModelAttention) -> dict[str, Any]:
    areas = [None if np.isnan(area) else round(area, 6) for area in model.areas.tolist()]
    return {
        "model": model.model,
        "network": model.network,
        "layer": model.layer.name,
        "positions": [model.layer.grid.side] * 2,
        "area": summarize(model.areas),
        "confidence": summarize(model.confidences),
        "guided": model.has_guided,
        "remarks": model.remarks,
        "areas": areas,
        "confidences": [round(confidence, 6) for confidence in model.confidences.tolist()],
        "shown": [_numbers_of_image(explanation) for explanation in model.shown],
    }


def _numbers_of_image(explanation: Explanation) -> dict[str, Any]:
    return {
        "predicted": explanation.predicted,
        "probability": explanation.probability,
        "target": explanation.target,
        "target_probability": explanation.target_probability,
        "crop": [explanation.crop.shape[-1]] * 2,
        "area": None if np.isnan(explanation.area) else explanation.area,
        "map": [[round(value, 4) for value in row] for row in explanation.map.tolist()],
    }


@figure_style()
def draw_attention(report: AttentionReport) -> Any:
    """A row per image: the image, then for each model its map over its crop, and guided images.

    Raises:
        ImageError: an image cannot be read.
    """
    from matplotlib.figure import Figure

    widths = [_width(3 if model.has_guided else 1) for model in report.models]
    width = 2 * _MARGIN + _CELL + sum(_BETWEEN + each for each in widths)
    note = _footnote(report, width - 2 * _MARGIN)
    height = _HEADER + len(report.shown) * (_CELL + _CAPTION) + (len(note) + 1) * _LINE
    page = _Page(Figure(figsize=(width, height)), width, height)
    page.text(_MARGIN, _HEADER - 0.06, "image", _SMALL)
    for row, i in enumerate(report.shown):
        image = load(report.source, i).image
        page.image(_MARGIN, row, _fit(image))
        page.caption(_MARGIN, row, [_name_of(report, i), _class_of(report, i)], _CELL)
    left = _MARGIN + _CELL + _BETWEEN
    for model, each in zip(report.models, widths, strict=True):
        _draw_model(page, model, left, each)
        left += each + _BETWEEN
    for number, line in enumerate(reversed(note)):
        page.text(_MARGIN, height - 0.06 - number * _LINE, line, _SMALL)
    return page.figure


def _footnote(report: AttentionReport, width: float) -> list[str]:
    """What the figures above the columns are, in lines."""
    text = (
        f"area: share of the map above {AREA_ABOVE:g} on its scale from 0 to 1; confidence: "
        "probability of the predicted class; mean ± standard deviation of "
        f"{len(report.measured):,} images"
    )
    return textwrap.wrap(text, int(width / _character(_SMALL)))


class _Page:
    """A figure on which things are put by inches from its left and its top."""

    def __init__(self, figure: Any, width: float, height: float) -> None:
        self.figure = figure
        self._width = width
        self._height = height

    def text(self, left: float, bottom: float, text: str, size: float, **style: Any) -> None:
        """A line of text that ends above `bottom`."""
        self.figure.text(
            left / self._width,
            1 - bottom / self._height,
            plain(escape_controls(text)),
            fontsize=size,
            va="bottom",
            **style,
        )

    def image(self, left: float, row: int, pixels: np.ndarray) -> None:
        """Pixels (H, W, 3) in a square cell."""
        bottom = _HEADER + row * (_CELL + _CAPTION) + _CELL
        axes = self.figure.add_axes(
            (
                left / self._width,
                1 - bottom / self._height,
                _CELL / self._width,
                _CELL / self._height,
            )
        )
        axes.imshow(pixels, interpolation="none")
        axes.set_anchor("SW")
        axes.set_axis_off()

    def caption(self, left: float, row: int, lines: list[str], width: float) -> None:
        """Up to two small lines below a cell."""
        bottom = _HEADER + row * (_CELL + _CAPTION) + _CELL
        for number, line in enumerate(lines):
            self.text(left, bottom + _LINE * (number + 1), _shorten(line, width), _SMALL)


def _draw_model(page: _Page, model: ModelAttention, left: float, width: float) -> None:
    area, confidence = summarize(model.areas), summarize(model.confidences)
    label = _shorten(model.label, width, _LABEL)
    page.text(left, 0.24, label, _LABEL, weight="bold")
    lines = [
        _describe_layer(model, width),
        f"area {_spread(area)}",
        f"confidence {_spread(confidence)}",
    ]
    for number, line in enumerate(lines):
        page.text(left, 0.39 + _LINE * number, line, _SMALL)
    kinds = ["Grad-CAM", "guided backprop.", "guided Grad-CAM"]
    for column, kind in enumerate(kinds if model.has_guided else kinds[:1]):
        page.text(left + column * (_CELL + _GAP), _HEADER - 0.06, kind, _SMALL)
    for row, explanation in enumerate(model.shown):
        cells = [_overlay(explanation)]
        if explanation.guided is not None and explanation.guided_cam is not None:
            cells += [_signed(explanation.guided), _signed(explanation.guided_cam)]
        for column, cell in enumerate(cells):
            page.image(left + column * (_CELL + _GAP), row, cell)
        page.caption(left, row, _said(explanation, width), width)


def _describe_layer(model: ModelAttention, width: float) -> str:
    """The end of the layer's name, as far as it fits, and the positions in the pixels."""
    side, pixels = model.layer.grid.side, model.shown[0].crop.shape[-1]
    name, after = model.layer.name, f", {side}x{side} of {pixels}x{pixels}"
    most = max(int((width + _BETWEEN) / _character(_SMALL)) - len(after), 4)
    return (name if len(name) <= most else f"…{name[1 - most :]}") + after


def _said(explanation: Explanation, width: float) -> list[str]:
    """The predicted class; and that of the map, where it is another."""
    lines = [_with_probability("", explanation.predicted, explanation.probability, width)]
    if explanation.target != explanation.predicted:
        probability = explanation.target_probability
        lines.append(_with_probability("map of ", explanation.target, probability, width))
    if np.isnan(explanation.area):
        lines[-1] += ", empty"
    return lines


def _with_probability(before: str, name: str, probability: float, width: float) -> str:
    """A class and its probability, which stays whole where the name is too long."""
    after = f" {100 * probability:.0f} %"
    taken = (len(before) + len(after)) * _character(_SMALL)
    return before + _shorten(name, width - taken) + after


def _spread(values: dict[str, Any]) -> str:
    if values["mean"] is None:
        return "-"
    deviation = "" if values["std"] is None else f" ± {values['std']:.2f}"
    return f"{values['mean']:.2f}{deviation}"


def _name_of(report: AttentionReport, i: int) -> str:
    return report.source.name(i).replace("\\", "/").rpartition("/")[2]


def _class_of(report: AttentionReport, i: int) -> str:
    label = report.source.label(i)
    if label < 0 or report.source.class_names is None:
        return ""
    return display_names([report.source.class_names[label]])[0]


def _width(num_cells: int) -> float:
    return num_cells * _CELL + (num_cells - 1) * _GAP


def _character(size: float) -> float:
    """Width of a character, inches."""
    return size * _WIDTH_OF_A_CHARACTER / _POINTS_PER_INCH


def _shorten(text: str, width: float, size: float = _SMALL) -> str:
    """The beginning of a text that fits into so many inches."""
    most = max(int(width / _character(size)), 2)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _fit(image: Tensor) -> np.ndarray:
    """An image uint8 (3, H, W) as pixels (H, W, 3) whose longer side is that of a cell."""
    scale = _PIXELS / max(image.shape[1:])
    height, width = (max(round(side * scale), 1) for side in image.shape[1:])
    sized: np.ndarray = resize(image, (height, width), "bicubic").permute(1, 2, 0).numpy()
    return sized


def _overlay(explanation: Explanation) -> np.ndarray:
    """The map in colors from blue to red over its crop."""
    from matplotlib import colormaps

    map_ = enlarge_maps(explanation.map[None], _PIXELS)[0].clamp(0, 1).numpy()
    colors = 255 * colormaps["jet"](map_)[..., :3]
    mixed: np.ndarray = (0.5 * _fit(explanation.crop) + 0.5 * colors).round().astype(np.uint8)
    return mixed


def _signed(gradient: Tensor) -> np.ndarray:
    """A gradient (3, S, S) as pixels: 0 is gray."""
    strongest = torch.quantile(gradient.abs().flatten()[:: _thin(gradient)], _STRONGEST)
    shown = (gradient / (2 * strongest.clamp_min(1e-20)) + 0.5).clamp(0, 1)
    return _fit((255 * shown).round().to(torch.uint8))


def _thin(gradient: Tensor) -> int:
    """Of how many values one is enough for a quantile, which torch takes of 16 million at most."""
    return -(-gradient.numel() // 2**20)
