"""Faster R-CNN and Mask R-CNN with a feature pyramid, on a ResNet that was trained before.

The networks are torchvision's. Its constructors put trainable batch norm into a backbone that comes
without weights of torchvision's own; with batches of two images per GPU its statistics are noise.
Here the weights are given before, so batch norm is frozen, as for published weights.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 4.4 and Table 11, whose settings are not published;
parameters as torchvision counts them, 41,755,286 and 44,401,393 with 91 outputs.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from fkd.errors import ConfigError
from fkd.models.checkpoints import MODEL_FILE, weights_sha256
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import Preprocessing
from fkd.models.weight_files import read_weight_file
from fkd.models.zoo import LoadedModel, load_model
from fkd.transfer.batches import Target
from fkd.transfer.coco import Category
from fkd.transfer.config import DetectorConfig
from fkd.userfiles import home_path, read_text

DETECTOR_FILE = "detector.json"
DetectorKind = Literal["faster_rcnn", "mask_rcnn"]

RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)
"""Backbones: the networks that timm and torchvision build alike, parameter by parameter, with the
stride in the 3x3 convolution."""

_DEFAULT = "resnet50"  # of a file of weights, which does not say what it is of
_FROZEN_STAGES, _ALL_STAGES = 3, 5  # trainable layers with and without trained weights
_BODY = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
_PHASES = ("train", "test")


@dataclass(frozen=True)
class Backbone:
    """A ResNet for a detector, by its weights.

    Attributes:
        name: one of `RESNETS`.
        state: its weights without the classifier; None for random ones.
        preprocessing: the colors that it expects.
        origin: where the weights come from, for people.
    """

    name: str
    state: dict[str, Tensor] | None
    preprocessing: Preprocessing
    origin: str

    @property
    def sha256(self) -> str | None:
        """Of the weights; None for random ones."""
        return None if self.state is None else weights_sha256(self.state)


@dataclass(frozen=True, kw_only=True)
class DetectorCard:
    """What `detector.json` says: enough to build a detector again, and to read its outputs.

    Attributes:
        kind: the network.
        backbone: one of `RESNETS`.
        frozen_norm: whether batch norm is frozen.
        trainable_layers: stages of the backbone that are trained, of 5.
        settings: sizes of images and numbers of regions.
        mean, std: of the colors.
        categories: of labels 1, 2, ...
    """

    kind: DetectorKind
    backbone: str
    frozen_norm: bool
    trainable_layers: int
    settings: DetectorConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    categories: tuple[Category, ...]

    @property
    def num_outputs(self) -> int:
        """Categories and the background."""
        return len(self.categories) + 1


class Detector(nn.Module):
    """A detector whose losses are computed by a call with one argument, as the engine makes it.

    Args:
        network: torchvision's.

    Attributes:
        network: the same.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: tuple[list[Tensor], list[Target]]) -> dict[str, Tensor]:
        """The losses by name, in training mode; float32 images (3, H, W) from 0 to 1."""
        losses: dict[str, Tensor] = self.network(*inputs)
        return losses


def load_backbone(
    *, name: str | None, checkpoint: str | None, pretrained: bool, from_scratch: bool
) -> Backbone:
    """A backbone from a run folder, a file of weights, the published weights, or nothing.

    Args:
        name: one of `RESNETS`, also as "torchvision/NAME", with a tag of published weights; by
            default what a run folder says, else resnet50.
        checkpoint: a run folder or a file of weights.
        pretrained: take the published weights of that name.
        from_scratch: take random ones.

    Raises:
        ConfigError: the network is no plain ResNet, or its weights cannot be had or do not fit.
    """
    is_folder = checkpoint is not None and home_path(checkpoint).is_dir()
    if name is None and not is_folder:
        name = _DEFAULT
    loaded = load_model(name, checkpoint=checkpoint, pretrained=pretrained, headless=True)
    architecture = parse_model_name(loaded.name).architecture
    require_resnet(architecture)
    _require_plain(loaded)
    if from_scratch:
        return Backbone(architecture, None, loaded.preprocessing, "random weights")
    state = dict(loaded.model.state_dict())
    origin = f"published weights of {loaded.name}" if checkpoint is None else checkpoint
    return Backbone(architecture, state, loaded.preprocessing, origin)


def require_resnet(architecture: str) -> None:
    """Refuse a network that torchvision's feature pyramid does not take.

    Raises:
        ConfigError: names those that it takes.
    """
    if architecture not in RESNETS:
        raise ConfigError(
            f"backbone: {architecture} is no plain ResNet of torchvision's layout, which Faster "
            f"R-CNN and Mask R-CNN are built on; use {', '.join(RESNETS)}"
        )


def build_detector(card: DetectorCard, state: dict[str, Tensor] | None) -> nn.Module:
    """torchvision's detector of a card, with the weights of its backbone in place.

    Args:
        card: what to build.
        state: weights of the backbone without its classifier; None leaves random ones.

    Raises:
        ConfigError: the weights do not fit.
    """
    settings = card.settings
    backbone = resnet_fpn_backbone(
        backbone_name=card.backbone,
        weights=None,
        norm_layer=FrozenBatchNorm2d if card.frozen_norm else nn.BatchNorm2d,
        trainable_layers=card.trainable_layers,
    )
    if state is not None:
        _fill(backbone.body, state)
    options: dict[str, Any] = {
        "min_size": settings.min_size,
        "max_size": settings.max_size,
        "image_mean": list(card.mean),
        "image_std": list(card.std),
        "box_batch_size_per_image": settings.regions_per_image,
        "box_detections_per_img": settings.detections_per_image,
    }
    if settings.proposals is not None:
        kinds = [f"rpn_{when}_nms_top_n_{phase}" for when in ("pre", "post") for phase in _PHASES]
        options |= dict.fromkeys(kinds, settings.proposals)
    kind = MaskRCNN if card.kind == "mask_rcnn" else FasterRCNN
    network: nn.Module = kind(backbone, num_classes=card.num_outputs, **options)
    return network


def describe_card(
    kind: DetectorKind,
    backbone: Backbone,
    settings: DetectorConfig,
    categories: tuple[Category, ...],
) -> DetectorCard:
    """The card of a detector on a backbone: without trained weights, no layer is frozen."""
    trained = backbone.state is not None
    layers = settings.trainable_layers
    if layers is None:
        layers = _FROZEN_STAGES if trained else _ALL_STAGES
    return DetectorCard(
        kind=kind,
        backbone=backbone.name,
        frozen_norm=trained,
        trainable_layers=layers,
        settings=settings,
        mean=backbone.preprocessing.mean,
        std=backbone.preprocessing.std,
        categories=categories,
    )


def load_detector(folder: str | Path) -> tuple[nn.Module, DetectorCard]:
    """The detector that a run of `fkd transfer` left, in eval mode on the CPU, and its card.

    Called with a list of float32 images (3, H, W) from 0 to 1 it returns for each a dict of
    "boxes", "labels", "scores" and, of Mask R-CNN, "masks". `card.categories[label - 1]` is the
    category of a label.

    Raises:
        ConfigError: the folder is no finished run of a detector, or is damaged.
    """
    path = home_path(folder) / DETECTOR_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} has no {DETECTOR_FILE}; give a finished run of fkd transfer")
    card = card_from_json(read_text("detector", path), str(path))
    network = build_detector(card, None)
    _fill(network, read_weight_file(path.with_name(MODEL_FILE)))
    return network.eval(), card


def card_to_json(card: DetectorCard) -> dict[str, Any]:
    """The contents of `detector.json`."""
    members = {**vars(card), "settings": vars(card.settings)}
    return {**members, "categories": [category._asdict() for category in card.categories]}


def card_from_json(text: str, origin: str) -> DetectorCard:
    """From the contents of `detector.json`.

    Raises:
        ConfigError: they are damaged.
    """
    try:
        members = json.loads(text)
        members["settings"] = DetectorConfig(**members["settings"])
        members["categories"] = tuple(Category(**one) for one in members["categories"])
        card = DetectorCard(**members)
        require_resnet(card.backbone)
        return card
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{origin} is damaged ({error}); train the detector again") from error


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained. Statistics of batch norm are not among them."""
    numbers = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in numbers), sum(n for n, trained in numbers if trained)


def _require_plain(loaded: LoadedModel) -> None:
    """Refuse a network that arguments have changed in a way that names of weights do not show.

    Raises:
        ConfigError: strides, dilation or activations are not those of the network of that name.
    """
    name = parse_model_name(loaded.name)
    with torch.device("meta"):
        plain = load_model(str(replace(name, tag="")), headless=True).model
    changed = [
        part for part in _BODY if str(getattr(loaded.model, part)) != str(getattr(plain, part))
    ]
    if changed:
        raise ConfigError(
            f"backbone: this {name.architecture} was built with arguments that change its "
            f"{changed[0]}, and torchvision's detectors only take the plain one"
        )


def _fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load all weights; frozen batch norm has no counter of batches.

    Raises:
        ConfigError: names or shapes differ.
    """
    wanted = module.state_dict()
    kept = {n: v for n, v in state.items() if n in wanted or not n.endswith("num_batches_tracked")}
    try:
        module.load_state_dict(kept)
    except RuntimeError as error:
        raise ConfigError(
            f"backbone: the weights do not fit: {' '.join(str(error).split())[:300]}"
        ) from error
