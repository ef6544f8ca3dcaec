"""Settings of `fkd.analysis.attention`: which models, and which of the images."""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

from fkd.checks import require_whole
from fkd.data.sources import ImagesConfig, ImageSource
from fkd.errors import ConfigError
from fkd.randomness import Purpose, permutations, stream_key
from fkd.userfiles import home_path

PREDICTED, TRUTH = "predicted", "truth"


@dataclass(frozen=True)
class AttentionConfig:
    """Which models on which images.

    Attributes:
        models: folders of finished runs; timm models, or "torchvision/NAME".
        images: to choose from.
        checkpoint: weights for a single model that is named; by default its pretrained ones.
        num_shown: images in the figure, drawn at random, of different classes as far as possible.
        shown: instead of these, images by their paths below the root.
        num_images: drawn at random, for the measured figures.
        seed: of the draws.
        target: whose map: predicted is each model's most probable class, truth the class of the
            image, anything else a class by name.
        layer: module whose activations are weighted, of all models, or one per model with commas;
            auto is the last layer with positions.
        input_size: side of the crops, pixels; by default each model's own.
        batch_size: images in a forward pass.
        num_workers: threads that decode images; 0 decodes them when they are needed.
        device: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is one.
    """

    models: list[str]
    _: KW_ONLY
    images: ImagesConfig
    checkpoint: str | None = None
    num_shown: int = 4
    shown: list[str] = field(default_factory=list)
    num_images: int = 100
    seed: int = 0
    target: str = PREDICTED
    layer: str = "auto"
    input_size: int | None = None
    batch_size: int = 16
    num_workers: int = 2
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_shown", "num_images", "input_size", "batch_size"):
            require_whole(1, name, getattr(self, name))
        require_whole(0, "num_workers", self.num_workers)
        if not self.models:
            raise ConfigError("models: give at least one, a run folder or the name of a network")
        if self.checkpoint is not None and len(self.models) > 1:
            raise ConfigError(
                f"checkpoint: is of a single model, but there are {len(self.models)}; give model "
                "folders, which have weights of their own"
            )
        if len(self.layer.split(",")) not in (1, len(self.models)):
            raise ConfigError(
                f"layer: {self.layer} names {len(self.layer.split(','))} layers, but there are "
                f"{len(self.models)} models; give one for all or one for each, auto among them"
            )


def layers_of(config: AttentionConfig) -> list[str | None]:
    """One layer per model; None for the last with positions."""
    names = [name.strip() for name in config.layer.split(",")]
    names = names if len(names) == len(config.models) else names * len(config.models)
    return [None if name == "auto" else name for name in names]


def choose_images(source: ImageSource, config: AttentionConfig) -> tuple[list[int], list[int]]:
    """Positions of the images of the figure, and of those that are measured.

    Raises:
        ConfigError: there is no image of a name.
    """
    order = permutations(stream_key(config.seed), Purpose.PROBE, 0, len(source)).tolist()
    measured = order[: config.num_images]
    if config.shown:
        return find_images(source, config.shown), measured
    first_of_class: list[int] = []
    others: list[int] = []
    known: set[int] = set()
    for i in order[: max(config.num_images, config.num_shown)]:
        label = source.label(i)
        (others if label in known else first_of_class).append(i)
        known.add(label)
    return (first_of_class + others)[: config.num_shown], measured


def find_images(source: ImageSource, names: Sequence[str]) -> list[int]:
    """Positions of images by their keys, or by the ends of these where only one fits.

    Raises:
        ConfigError: there is none, or there are several.
    """
    keys = [source.key(i) for i in range(len(source))]
    position = {key: i for i, key in enumerate(keys)}
    found = []
    for name in names:
        wanted = os.fsencode(name)
        fitting = [position[wanted]] if wanted in position else []
        fitting = fitting or [i for i, key in enumerate(keys) if key.endswith(b"/" + wanted)]
        if len(fitting) != 1:
            count = f"{len(fitting)} images" if fitting else "no image"
            example = source.name((fitting or [0])[0])
            raise ConfigError(
                f"shown: {source.root} has {count} {name}; give a path below it, such as that of "
                f"{example}"
            )
        found += fitting
    return found


def label_models(models: Sequence[str]) -> list[str]:
    """What a figure calls models: the last part of a folder, or all of it where two are alike.

    Example:
        >>> label_models(["tf_efficientnet_lite0", "torchvision/resnet18"])
        ['tf_efficientnet_lite0', 'torchvision/resnet18']
    """
    folders = [home_path(model) for model in models]
    labels = [
        folder.resolve().name if folder.is_dir() else model
        for folder, model in zip(folders, models, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else model
        for label, model in zip(labels, models, strict=True)
    ]
