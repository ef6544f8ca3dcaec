"""One self-contained HTML page: photographs, their crop boxes, and what the teacher saw in each.

The page opens from disk, loads nothing and needs no server. Pixels come from the same decode and
replay as labeling, so what is shown is what the teacher saw.
"""

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image
from torch import Tensor

from fkd.crops.partners import Partner, Partners, partner_rows
from fkd.crops.records import CropRecords
from fkd.crops.replay import replay, resize
from fkd.data.sources import ImageSource, load
from fkd.errors import ConfigError, StoreMismatch
from fkd.store import LabelStore
from fkd.store.canonical import printable
from fkd.viewing.summary import TopClasses, sample_labeled_rows, summarize, top_classes

# Eight colors that stay apart on light and dark photographs and for most color-blind readers.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What a page shows.

    Attributes:
        num_images: images on the page, drawn at random.
        crops_per_image: crops shown of each image, spread over the stored ones.
        num_classes: bars per crop.
        image_side: longer side of a photograph on the page, pixels.
        crop_side: side of a crop's picture, pixels.
        seed: picks the images.
    """

    num_images: int = 12
    crops_per_image: int = 8
    num_classes: int = 5
    image_side: int = 480
    crop_side: int = 112
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_images", "crops_per_image", "num_classes", "image_side", "crop_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


def render_page(store: LabelStore, images: ImageSource, config: PageConfig | None = None) -> str:
    """The page as HTML.

    Raises:
        StoreMismatch: none of the store's images is in `images`.
        ImageError: an image cannot be read.
    """
    config = config or PageConfig()
    place = {images.key(i): i for i in range(len(images))}
    rows = sample_labeled_rows(store, config.num_images, config.seed)
    rows = np.array([row for row in rows if store.keys([row])[0] in place], dtype=np.int64)
    if len(rows) == 0:
        raise StoreMismatch(
            f"none of the images of {store.path} is in {images.root}; "
            "give --images.root the folder that was labeled"
        )
    cards = [_card(store, images, int(row), place, config) for row in rows]
    template = files("fkd.viewing").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        title=store.path.name,
        summary=summarize(store, num_samples=0),
        cards=cards,
        config=config,
    )


def _card(
    store: LabelStore, images: ImageSource, row: int, place: dict[bytes, int], config: PageConfig
) -> dict[str, Any]:
    """Everything the template shows of one image; `place` has the position of each key."""
    loaded = load(images, place[store.keys([row])[0]])
    count = min(config.crops_per_image, store.num_crops)
    numbers = np.linspace(0, store.num_crops - 1, count).astype(np.int64)
    records = store[store.keys([row])[0]].records[numbers]
    labels = top_classes(store, row, config.num_classes)
    partners = _load_partners(store, images, records, numbers, place)
    pictures = replay(loaded.image, records, config.crop_side, "bicubic", partners=partners)
    height, width = loaded.image.shape[-2:]
    return {
        "name": printable(store.keys([row])[0]),
        "width": width,
        "height": height,
        "stroke": max(height, width) / 200,
        "picture": _data_uri(_shrink(loaded.image, config.image_side)),
        "crops": [
            _crop(int(n), records, i, pictures[i], labels[int(n)]) for i, n in enumerate(numbers)
        ],
    }


def _load_partners(
    store: LabelStore,
    images: ImageSource,
    records: CropRecords,
    numbers: np.ndarray,
    place: dict[bytes, int],
) -> Partners:
    """What crops with these records and numbers are mixed with."""
    partners = {}
    for row in partner_rows(records):
        key = store.keys([row])[0]
        if key not in place:
            raise StoreMismatch(
                f"crops are mixed with crops of {printable(key)}, which is not in {images.root}; "
                "give --images.root the whole folder that was labeled"
            )
        theirs = store.read([row], numbers[None]).records[0]
        partners[row] = Partner(load(images, place[key]).image, theirs)
    return partners


def _crop(
    number: int, records: CropRecords, i: int, picture: Tensor, label: TopClasses
) -> dict[str, Any]:
    top, left, height, width = records.box[i].tolist()
    return {
        "number": number,
        "color": _COLOURS[i % len(_COLOURS)],
        "top": top,
        "left": left,
        "height": height,
        "width": width,
        "flip": bool(records.flip[i]),
        "picture": _data_uri(picture),
        "bars": [
            {"name": name, "percent": 100.0 * p}
            for name, p in zip(label.names, label.probabilities, strict=True)
        ],
        "rest": max(0.0, 100.0 * (1.0 - sum(label.probabilities))),
    }


def _shrink(image: Tensor, side: int) -> Tensor:
    """The image with its longer side at most `side` pixels."""
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    if scale >= 1.0:
        return image
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))), "bilinear")


def _data_uri(image: Tensor) -> str:
    """A uint8 image (3, H, W) as a JPEG inside a URL."""
    buffer = io.BytesIO()
    pixels = image.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
