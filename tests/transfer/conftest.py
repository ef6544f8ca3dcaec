"""Small COCO files, and a detector small enough to be trained in a test."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

import fkd.transfer.setup
from fkd.data.sources import ImagesConfig
from fkd.transfer.config import DetectorConfig, TransferConfig
from fkd.transfer.smoke import write_coco

_WIDTH = 8
SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]


class TinyPyramid(nn.Module):
    """Two levels of features, at a quarter and an eighth of the size."""

    out_channels = _WIDTH

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, _WIDTH, 5, stride=4, padding=2)
        self.second = nn.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1)

    def forward(self, images):
        features = self.first(images).relu()
        return OrderedDict([("0", features), ("1", self.second(features).relu())])


def tiny_detector(card, state) -> nn.Module:
    """torchvision's detector around a network of a few hundred weights."""
    levels, outputs, settings = ["0", "1"], card.num_outputs, card.settings
    options = {
        "min_size": settings.min_size,
        "max_size": settings.max_size,
        "rpn_anchor_generator": AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2),
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
        "box_head": TwoMLPHead(_WIDTH * 49, 16),
        "box_predictor": FastRCNNPredictor(16, outputs),
        "box_batch_size_per_image": settings.regions_per_image,
        "box_detections_per_img": settings.detections_per_image,
        "rpn_post_nms_top_n_train": settings.proposals,
        "rpn_post_nms_top_n_test": settings.proposals,
    }
    if card.kind == "faster_rcnn":
        return FasterRCNN(TinyPyramid(), **options)
    options |= {
        "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 2),
        "mask_head": MaskRCNNHeads(_WIDTH, (_WIDTH,), 1),
        "mask_predictor": MaskRCNNPredictor(_WIDTH, _WIDTH, outputs),
    }
    return MaskRCNN(TinyPyramid(), **options)


@pytest.fixture
def tiny(monkeypatch):
    """Runs train the tiny detector."""
    monkeypatch.setattr(fkd.transfer.setup, "build_detector", tiny_detector)


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory) -> Path:
    """8 training and 4 validation images of shapes, a crowd, and an image without objects."""
    return write_coco(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture
def detection(tmp_path, coco_folder) -> TransferConfig:
    """4 steps of Mask R-CNN, a checkpoint after each."""
    return TransferConfig(
        out=str(tmp_path / "run"),
        images=ImagesConfig(root=str(coco_folder)),
        from_scratch=True,
        backbone="resnet18",
        detector=DetectorConfig(
            min_size=32, max_size=64, proposals=20, regions_per_image=8, detections_per_image=5
        ),
        epochs=2,
        batch_size=4,
        num_workers=0,
        log_every=1,
        checkpoint_seconds=0,
        device="cpu",
    )


@pytest.fixture
def write_annotations(tmp_path):
    """Writes a small file of annotations with changes, and its images; returns both paths."""

    def write(change=lambda document: None, size=(20, 16)) -> tuple[str, str]:
        document = {
            "images": [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}],
            "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
            "annotations": [
                {
                    "id": 5,
                    "image_id": 7,
                    "category_id": 90,
                    "bbox": [2, 2, 10, 10],
                    "segmentation": [SQUARE],
                }
            ],
        }
        change(document)
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
        file = tmp_path / "instances.json"
        file.write_text(json.dumps(document))
        return str(file), str(folder)

    return write
