"""What a detector is trained from: images, backbone, network; opened and checked first."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fkd.errors import ConfigError
from fkd.transfer.coco import CocoSet, read_coco
from fkd.transfer.config import CocoPaths, TransferConfig, find_coco_paths
from fkd.transfer.detectors import (
    Backbone,
    DetectorCard,
    DetectorKind,
    build_detector,
    describe_card,
    load_backbone,
)
from fkd.transfer.masks import require_mask_library


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Images and what is in them.

    Attributes:
        train: to train on.
        chosen: positions of those with objects.
        val: to measure AP on; None without any.
    """

    train: CocoSet
    chosen: list[int]
    val: CocoSet | None


@dataclass(frozen=True, kw_only=True)
class DetectionSetup:
    """Everything that a run needs besides an engine and a folder.

    Attributes:
        data: the images.
        backbone: its weights, before training.
        card: of the detector.
        network: with the weights of the backbone in place.
        identity: JSON object that identifies data and backbone, wherever they lie.
        remarks: what the user may want to know of them, a sentence each.
    """

    data: DetectionData
    backbone: Backbone
    card: DetectorCard
    network: nn.Module
    identity: dict[str, Any]
    remarks: list[str]


def open_data(config: TransferConfig) -> DetectionData:
    """The images of a run.

    Raises:
        ConfigError: something is missing or malformed, or no image has an object.
    """
    paths, masks = find_coco_paths(config), config.task == "segmentation"
    if masks or paths.val_annotations is not None:
        require_mask_library()
    train = read_coco("annotations", paths.annotations, paths.images, masks=masks)
    chosen = train.with_objects()
    if not chosen:
        raise ConfigError(
            f"annotations: {train.path} has no object in any image, so there is nothing to learn"
        )
    return DetectionData(train=train, chosen=chosen, val=_open_val(paths, train, masks))


def _open_val(paths: CocoPaths, train: CocoSet, masks: bool) -> CocoSet | None:
    if paths.val_annotations is None or paths.val_images is None:
        return None
    return read_coco(
        "val_annotations",
        paths.val_annotations,
        paths.val_images,
        masks=masks,
        categories=train.categories,
    )


def build_setup(config: TransferConfig, data: DetectionData) -> DetectionSetup:
    """Load the backbone and build the detector.

    Raises:
        ConfigError: the backbone is no ResNet that detectors take, or its weights cannot be had.
    """
    backbone = load_backbone(
        name=config.backbone,
        checkpoint=config.checkpoint,
        pretrained=config.pretrained,
        from_scratch=config.from_scratch,
    )
    kind: DetectorKind = "mask_rcnn" if config.task == "segmentation" else "faster_rcnn"
    card = describe_card(kind, backbone, config.detector, tuple(data.train.categories))
    torch.manual_seed(config.seed)
    network = build_detector(card, backbone.state)
    return DetectionSetup(
        data=data,
        backbone=backbone,
        card=card,
        network=network,
        identity=_identify(data, backbone),
        remarks=_remarks(data),
    )


def _identify(data: DetectionData, backbone: Backbone) -> dict[str, Any]:
    return {
        "annotations_sha256": data.train.sha256,
        "val_annotations_sha256": None if data.val is None else data.val.sha256,
        "backbone": backbone.name,
        "backbone_sha256": backbone.sha256,
    }


def _remarks(data: DetectionData) -> list[str]:
    remarks = []
    without = len(data.train.images) - len(data.chosen)
    if without:
        remarks.append(
            f"{without:,} of {len(data.train.images):,} training images have no object and are "
            "left out"
        )
    for coco, what in ((data.train, "training"), (data.val, "validation")):
        if coco is not None and coco.num_degenerate:
            remarks.append(
                f"{coco.num_degenerate:,} boxes of the {what} images have no area inside their "
                "image and are left out"
            )
    if data.train.num_crowds:
        remarks.append(
            f"crowds of the training images that are left out: {data.train.num_crowds:,}"
        )
    if data.val is None:
        remarks.append("there are no validation images, so AP is not measured")
    return remarks
