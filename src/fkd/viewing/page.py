"""One self-contained HTML page: images, their crop boxes, and the teacher's label of each crop.

Embeddings have no classes to show: beside each crop are the crops of other images that lie nearest.

The page opens from disk, loads nothing and needs no server. Images are checked to be those that
were labeled, and decoded and cropped as in labeling: the page shows what the teacher saw.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fkd.checks import require_whole
from fkd.crops.records import CropRecords
from fkd.crops.replay import replay, resize
from fkd.data.identity import load_labeled
from fkd.data.sources import ImageSource
from fkd.errors import ConfigError
from fkd.store import LabelStore
from fkd.store.canonical import printable
from fkd.viewing.browser import Browser, Selection
from fkd.viewing.embeddings import (
    EmbeddingSample,
    Neighbor,
    Neighbors,
    nearest_crops,
    rows_of,
    sample_embeddings,
)
from fkd.viewing.filters import FilterConfig, Sort
from fkd.viewing.samples import spread_crops
from fkd.viewing.summary import TopClasses, top_classes
from fkd.viewing.templates import render

# Eight colors that stay apart on light and dark images and for most color-blind readers.
_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")

# What the template shows of the labels of these crops of an image, by its row.
LabelOf = Callable[[int, np.ndarray], list[dict[str, Any]]]

GENERATOR = "fkd view"


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What a page shows.

    Attributes:
        number: which page of the chosen images, from 1.
        num_images: images on a page.
        crops_per_image: crops shown of each image, spread over the stored ones.
        num_classes: bars per crop.
        num_neighbors: of features, nearest crops of other images shown beside each crop.
        sampled_images: of features, random images among whose crops these are looked for.
        image_side: longer side of an image on the page, pixels.
        crop_side: side of a crop on the page, pixels.
        seed: of the random order of the images.
    """

    number: int = 1  # first: `--page 2` stands for it
    num_images: int = 12
    crops_per_image: int = 8
    num_classes: int = 5
    num_neighbors: int = 4
    sampled_images: int = 128
    image_side: int = 480
    crop_side: int = 112
    seed: int = 0

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.name != "seed":
                require_whole(1, setting.name, getattr(self, setting.name))
        require_whole(None, "seed", self.seed)


def render_page(
    store: LabelStore,
    images: ImageSource,
    config: PageConfig = PageConfig(),
    filter: FilterConfig = FilterConfig(),  # noqa: B008 - never changed
    sort: Sort = "random",
    advance: Callable[[int], object] = lambda count: None,
) -> str:
    """A page as HTML.

    Args:
        store: finished.
        images: those that were labeled.
        config: how much the page shows, and which page it is.
        filter: which images are shown.
        sort: in which order.
        advance: called while labels are read for filters, with the number of images done since.

    Raises:
        StoreMismatch: the images are not those of the store.
        CropMismatch: an image on the page is not the file that was labeled.
        ImageError: it cannot be read.
        ConfigError: a filter is impossible, or no image passes it.
    """
    return render_choice(Browser(store, images), config, filter, sort, advance)


def render_choice(
    browser: Browser,
    config: PageConfig,
    filter: FilterConfig,
    sort: Sort,
    advance: Callable[[int], object],
) -> str:
    """As `render_page`, of a store and images that are opened.

    Raises:
        CropMismatch, ImageError, ConfigError: see `render_page`.
    """
    selection = browser.select(
        filter,
        sort,
        seed=config.seed,
        number=config.number,
        size=config.num_images,
        advance=advance,
    )
    if not selection.total and filter != FilterConfig():
        raise ConfigError("filter: no image of the store passes all conditions; set fewer of them")
    return render_selection(browser, selection, config)


def render_selection(
    browser: Browser,
    selection: Selection | None,
    config: PageConfig,
    form: dict[str, Any] | None = None,
) -> str:
    """The page of these images as HTML.

    Args:
        browser: of the store and the images.
        selection: what is on the page; None for nothing but the form.
        config: how much is shown of each image.
        form: what a server needs for its filters and links; None for a file.

    Raises:
        CropMismatch, ImageError: see `render_page`.
    """
    store, images = browser.store, browser.images
    rows = np.zeros(0, np.int64) if selection is None else selection.rows
    label_of: LabelOf = _bars_of(store, config)
    sample = None
    if not store.is_of_classes:
        sample = sample_embeddings(
            store, config.sampled_images, config.crops_per_image, config.seed, browser.labeled
        )
        label_of = _neighbors_of(store, images, sample, rows, config)
    cards = [_card(store, images, row, config, label_of) for row in rows.tolist()]
    return render(
        "page.html.j2",
        script="page.js",
        form_allowed=form is not None,
        title=store.path.name,
        summary=browser.summary,
        cards=[card | about for card, about in zip(cards, browser.describe(rows), strict=True)],
        selection=selection,
        form=form,
        config=config,
        crops_shown=min(config.crops_per_image, store.num_crops),
        neighbor_side=_neighbor_side(config),
        num_sampled=None if sample is None else len(sample.rows),
    )


def _neighbor_side(config: PageConfig) -> int:
    """Side of the crop of another image on the page, pixels."""
    return max(1, config.crop_side // 2)


def _bars_of(store: LabelStore, config: PageConfig) -> LabelOf:
    """The most probable classes of a crop, as bars."""

    def label_of(row: int, numbers: np.ndarray) -> list[dict[str, Any]]:
        labels = top_classes(store, row, config.num_classes)
        return [_bars(labels[number]) for number in numbers.tolist()]

    return label_of


def _bars(label: TopClasses) -> dict[str, Any]:
    """What the template shows of a label of classes."""
    return {
        "bars": [
            {"name": name, "percent": 100.0 * p}
            for name, p in zip(label.names, label.probabilities, strict=True)
        ],
        "rest": max(0.0, 100.0 * (1.0 - sum(label.probabilities))),
    }


def _neighbors_of(
    store: LabelStore,
    images: ImageSource,
    sample: EmbeddingSample,
    rows: np.ndarray,
    config: PageConfig,
) -> LabelOf:
    """The nearest crops of other images; every image of the sample is decoded once at most."""
    numbers = spread_crops(store.num_crops, config.crops_per_image)
    found: dict[int, list[Neighbors]] = {}
    for row in rows.tolist():
        values = store.read([row], numbers[None]).label.values
        assert values is not None
        found[row] = nearest_crops(sample, values[0], row, config.num_neighbors)
    wanted = rows_of([each for of_image in found.values() for each in of_image])
    pictures: dict[tuple[int, int], str] = {}
    for row, crops in wanted.items():
        records = store.read([row], [crops]).records[0]
        image = load_labeled(store, images, row)
        shown = replay(image, records, _neighbor_side(config), "bicubic")
        pictures |= {(row, crops[i]): _data_uri(crop) for i, crop in enumerate(shown)}

    def show(neighbor: Neighbor) -> dict[str, Any]:
        return asdict(neighbor) | {"picture": pictures[neighbor.row, neighbor.crop]}

    def label_of(row: int, numbers: np.ndarray) -> list[dict[str, Any]]:
        return [{"neighbors": [show(n) for n in each.nearest]} for each in found[row]]

    return label_of


def _card(
    store: LabelStore, images: ImageSource, row: int, config: PageConfig, label_of: LabelOf
) -> dict[str, Any]:
    """Everything the template shows of one image."""
    image = load_labeled(store, images, row)
    numbers = spread_crops(store.num_crops, config.crops_per_image)
    records = store.read([row], numbers[None]).records[0]
    labels = label_of(row, numbers)
    crops = replay(image, records, config.crop_side, "bicubic")
    height, width = image.shape[1:]
    return {
        "name": printable(store.keys([row])[0]),
        "width": width,
        "height": height,
        "stroke": max(height, width) / 200,
        "image": _data_uri(_shrink(image, config.image_side)),
        "crops": [_crop(int(n), records, i, crops[i]) | labels[i] for i, n in enumerate(numbers)],
    }


def _crop(number: int, records: CropRecords, i: int, crop: Tensor) -> dict[str, Any]:
    """What the template shows of the i-th of these crops, number `number` in the store."""
    top, left, height, width = records.box[i].tolist()
    return {
        "number": number,
        "color": _COLORS[i % len(_COLORS)],
        "top": top,
        "left": left,
        "height": height,
        "width": width,
        "flip": bool(records.flip[i]),
        "image": _data_uri(crop),
    }


def _shrink(image: Tensor, side: int) -> Tensor:
    """A uint8 image (3, H, W) with its longer side at most `side` pixels."""
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    if scale >= 1.0:
        return image
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))), "bilinear")


def _data_uri(image: Tensor) -> str:
    """A uint8 image (3, H, W) as a JPEG inside a URL."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(
        buffer, format="JPEG", quality=85
    )
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
