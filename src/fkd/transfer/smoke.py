"""Any transfer run in seconds: its settings on a few generated images, through the same code.

Kept are the task, the optimizer and the preset. Made small are images, regions, steps and the
backbone, a ResNet-18 with random weights. What comes out shows that a recipe runs; its figures
mean nothing.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fkd.data.sources import ImagesConfig
from fkd.models.cards import ModelCard
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import default_preprocessing
from fkd.models.zoo import build_model
from fkd.training.students import save_student
from fkd.transfer.config import DetectorConfig, TransferConfig

GENERATED = "generated"
"""In the place of paths that a smoke run makes itself."""

_NETWORKS = {"classification": "test_resnet"}
_BACKBONE = "resnet18"
_CATEGORIES = {1: "square", 18: "disc", 90: "triangle"}  # with gaps, as COCO has them
_NUM_IMAGES = {"train": 8, "val": 4}
_DETECTOR = DetectorConfig(
    min_size=64, max_size=96, proposals=40, regions_per_image=16, detections_per_image=10
)
_BATCH_SIZE, _SIDE = 2, 32


def smoke_settings(config: TransferConfig, folder: Path) -> TransferConfig:
    """The settings of a small run like `config`; everything that it needs is made in `folder`.

    Args:
        config: the recipe.
        folder: new or empty; images, weights and the run go there.
    """
    checkpoint = None if config.from_scratch else str(_write_weights(folder, config.task))
    small: dict[str, Any] = {
        "out": str(folder / "run"),
        "checkpoint": checkpoint,
        "backbone": None if checkpoint else _BACKBONE,
        "pretrained": False,
        "epochs": 2,
        "accumulate_steps": 1,
        "num_workers": 0,
        "log_every": 1,
        "resume_from": None,
    }
    if config.task == "classification":
        images = ImagesConfig(root=str(write_classes(folder / "images")))
        small |= {"images": images, "val": images, "input_size": _SIDE}
        return replace(config, **small)
    layers = config.detector.trainable_layers
    small |= {
        "images": ImagesConfig(root=str(write_coco(folder / "coco"))),
        "annotations": None,
        "val": None,
        "val_annotations": None,
        "detector": replace(_DETECTOR, trainable_layers=layers),
        "epochs": 1,
        "batch_size": _BATCH_SIZE,
        "optimizer": replace(config.optimizer, lr=1e-3),  # frozen random layers explode otherwise
        "milestones": None,
        "warmup_steps": None,
    }
    return replace(config, **small)


def write_coco(root: Path, seed: int = 0) -> Path:
    """A small folder like that of COCO: shapes, one crowd, one image without objects.

    Args:
        root: new; annotations/instances_train2017.json, train2017 and so on are written into it.
        seed: of sizes, places and colors.
    """
    draw = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    for part, count in _NUM_IMAGES.items():
        name = f"{part}2017"
        (root / name).mkdir()
        document: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": kind} for i, kind in _CATEGORIES.items()],
        }
        for number in range(count):
            _add_image(document, root / name, number, draw)
        file = root / "annotations" / f"instances_{name}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
    return root


def _add_image(
    document: dict[str, list[dict[str, Any]]], folder: Path, number: int, draw: np.random.Generator
) -> None:
    """One image with two shapes; the first has a crowd, too, and the last nothing."""
    height, width = (int(side) for side in draw.integers(56, 80, 2))
    noise = draw.integers(0, 60, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    entry = {"id": 10 * number + 3, "file_name": f"{number:012}.jpg"}
    document["images"].append(entry | {"height": height, "width": width})
    is_last = number == min(_NUM_IMAGES.values()) - 1
    for place in range(0 if is_last else 2):
        id_ = list(_CATEGORIES)[(number + place) % len(_CATEGORIES)]
        polygon = _shape(_CATEGORIES[id_], width // 4 + place * width // 2, height // 2, draw)
        color = tuple(draw.integers(120, 255, 3).tolist())
        ImageDraw.Draw(image).polygon([tuple(corner) for corner in polygon.tolist()], fill=color)
        _annotate(document, entry["id"], id_, polygon)
    if number == 0:
        _annotate_crowd(document, entry["id"], height, width)
    image.save(folder / str(entry["file_name"]))


def _shape(kind: str, x: int, y: int, draw: np.random.Generator) -> np.ndarray:
    """Corners of a shape around a point, float64 (n, 2)."""
    radius = float(draw.uniform(8, 13))
    corners = {"square": 4, "disc": 16, "triangle": 3}[kind]
    angles = 2 * np.pi * (np.arange(corners) / corners) + np.pi / 4
    around = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.round(np.array([x, y]) + around, 2)


def _annotate(
    document: dict[str, list[dict[str, Any]]], image_id: Any, category_id: int, polygon: np.ndarray
) -> None:
    low, high = polygon.min(0), polygon.max(0)
    document["annotations"].append(
        {
            "id": len(document["annotations"]) + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [*low.tolist(), *(high - low).tolist()],
            "area": float(np.prod(high - low)),
            "iscrowd": 0,
            "segmentation": [polygon.reshape(-1).tolist()],
        }
    )


def _annotate_crowd(
    document: dict[str, list[dict[str, Any]]], image_id: Any, height: int, width: int
) -> None:
    """A crowd in the first four columns of an image, as run lengths down the columns."""
    inside = 4 * height
    document["annotations"].append(
        {
            "id": len(document["annotations"]) + 1,
            "image_id": image_id,
            "category_id": min(_CATEGORIES),
            "bbox": [0, 0, 4, height],
            "area": inside,
            "iscrowd": 1,
            "segmentation": {
                "size": [height, width],
                "counts": [0, inside, height * width - inside],
            },
        }
    )


def write_classes(folder: Path, seed: int = 0) -> Path:
    """Class folders of small images, each class in a color of its own."""
    draw = np.random.default_rng(seed)
    for number, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 120, (_SIDE + 4 * i, _SIDE + 8, 3), dtype=np.uint8)
            pixels[..., 2 - number] += 130
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def _write_weights(folder: Path, task: str) -> Path:
    """A folder as `fkd train` leaves it, with random weights."""
    name = _NETWORKS.get(task, _BACKBONE)
    network = build_model(name, num_classes=5)
    card = ModelCard(name, 5, default_preprocessing(parse_model_name(name)))
    path = folder / "student"
    path.mkdir(parents=True)
    save_student(path, network, card, [f"class{number}" for number in range(5)])
    return path
