"""The first duplicates as pairs of images."""

from typing import Any

from fkd.analysis.duplicates import Duplicate, DuplicateReport, StoreImages
from fkd.analysis.figures import figure_style, new_figure, plain
from fkd.crops.replay import resize
from fkd.data.sources import ImageSource, load
from fkd.errors import escape_controls

_SHOWN_PAIRS = 12
_SHOWN_SIDE = 160  # pixels of an image in the figure
_CAPTION = 22  # characters


@figure_style()
def draw_duplicates(report: DuplicateReport, parts: dict[str, ImageSource]) -> Any:
    """The first duplicates, two images of each side by side; a title alone where none are there."""
    there = not any(isinstance(source, StoreImages) for source in parts.values())
    shown = report.duplicates[:_SHOWN_PAIRS] if there else []
    columns, rows = max(1, min(3, len(shown))), -(-len(shown) // 3)
    figure = new_figure(max(4.5, 2.9 * columns), 1.9 * rows + 0.4)
    if shown:
        cells = figure.subfigures(rows, columns, squeeze=False).ravel()
        for cell, duplicate in zip(cells, shown, strict=False):
            _draw_pair(cell, duplicate, parts)
    count, more = len(report.duplicates), len(report.duplicates) > len(shown) > 0
    figure.suptitle(
        f"{count:,} duplicate{'s' * (count != 1)} among {sum(report.num_images.values()):,} images"
        + (f", the first {len(shown)}" if more else ""),
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure


def _draw_pair(cell: Any, duplicate: Duplicate, parts: dict[str, ImageSource]) -> None:
    for axes, image in zip(cell.subplots(1, 2), duplicate.images, strict=False):
        pixels = load(parts[image.part], image.position).image
        scale = _SHOWN_SIDE / max(pixels.shape[1:])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[1:])
        axes.imshow(resize(pixels, (height, width), "bilinear").permute(1, 2, 0).numpy())
        axes.set_axis_off()
        caption = image.part if image.class_name is None else f"{image.part}: {image.class_name}"
        axes.set_title(plain(escape_controls(caption))[:_CAPTION], fontsize=7, loc="center")
    said = "same content" if duplicate.identical else f"similarity {duplicate.similarity:.3f}"
    if duplicate.classes_differ:
        said += ", classes differ"
    more = len(duplicate.images) - 2
    cell.supxlabel(said + (f", {more} more" if more else ""), fontsize=7)
