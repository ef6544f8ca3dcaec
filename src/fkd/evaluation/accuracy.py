"""Top-1 and top-5 accuracy of a classifier on labeled images.

Images are decoded as in labeling and training, their shorter side is resized to size / crop_pct,
and the center is cut out: timm's evaluation transform. Class folders are matched with the model's
classes by name, never by position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from fkd.crops.replay import resize
from fkd.data.ahead import map_ahead
from fkd.data.class_sets import refuse_several
from fkd.data.joining import class_ids_among
from fkd.data.numbered import numbers_of
from fkd.data.sources import ImageSource, load
from fkd.errors import ConfigError
from fkd.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Accuracy:
    """Shares of the images whose class is ranked first, or among the first five, in percent.

    Attributes:
        top1: ranked first.
        top5: among the first five; among all classes where there are fewer.
        num_images: images counted.
        num_skipped: images left out, because the model lacks their class.
    """

    top1: float
    top5: float
    num_images: int
    num_skipped: int


@dataclass(frozen=True, kw_only=True)
class LabeledImages:
    """The images of a source whose class a model has.

    Attributes:
        source: the images.
        chosen: positions of the images with a class that the model has, int64 (n,).
        labels: the model's id of their classes, int64 (n,).
    """

    source: ImageSource
    chosen: np.ndarray
    labels: np.ndarray

    @staticmethod
    def match(source: ImageSource, class_names: Sequence[str]) -> "LabeledImages":
        """Pair the images with the classes of a model, by name.

        Raises:
            ConfigError: the images have no classes, or the model knows none of them.
        """
        refuse_several(source)
        ids = class_ids_among(source, class_names)
        if ids is None or source.class_names is None:
            raise ConfigError(f"{source.root} has no classes; give images in class folders")
        labels = np.array([source.label(i) for i in range(len(source))], np.int64)
        labels = np.where(labels >= 0, ids[labels], -1)
        chosen = np.flatnonzero(labels >= 0)
        if len(chosen) == 0:
            raise ConfigError(
                f"none of the classes of {source.root} ({some_names(source.class_names)}) is known "
                f"to the model ({some_names(class_names)}); use a model that was trained on these "
                "classes, or rename the folders if only their names differ"
                + suggest_numbers(source)
            )
        return LabeledImages(source=source, chosen=chosen, labels=labels[chosen])

    @property
    def num_skipped(self) -> int:
        """Images whose class the model lacks."""
        return len(self.source) - len(self.chosen)


@torch.inference_mode()
def measure_accuracy(
    model: nn.Module,
    images: LabeledImages,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int = 128,
    num_workers: int = 0,
) -> Accuracy:
    """The accuracy of a model; with several processes, each evaluates its share of the images.

    The model is in eval mode afterwards.

    Raises:
        ImageError: an image cannot be read.
    """
    model.eval()
    hits = torch.zeros(2, dtype=torch.int64)
    for crops, labels in load_share(images, preprocessing, batch_size, num_workers):
        logits = model(preprocessing.normalize(crops.to(device, non_blocking=True)))
        hits += _count_hits(logits.float(), labels.to(device)).cpu()
    if is_distributed():
        hits = hits.to(device)
        torch.distributed.all_reduce(hits)
    top1, top5 = (100.0 * number / len(images.chosen) for number in hits.tolist())
    return Accuracy(top1, top5, len(images.chosen), images.num_skipped)


def center_crop(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The center of an image uint8 (3, H, W) at a model's input size, uint8 (3, S, S)."""
    size = preprocessing.input_size
    shorter = int(size / preprocessing.crop_pct)
    short = min(image.shape[1:])
    height, width = (int(shorter * side / short) for side in image.shape[1:])
    resized = resize(image, (height, width), preprocessing.interpolation)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized[:, top : top + size, left : left + size]


def _count_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Crops whose class is first, and among the first five, int64 (2,)."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = ranked == labels[:, None]
    return torch.stack([right[:, 0].sum(), right.sum()])


def load_share(
    images: LabeledImages, preprocessing: Preprocessing, batch_size: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the crops (B, 3, S, S) and their labels (B,), built ahead."""
    rank, world_size = 0, 1
    if is_distributed():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    share = range(rank, len(images.chosen), world_size)
    parts = [share[first : first + batch_size] for first in range(0, len(share), batch_size)]
    return map_ahead(partial(_build_batch, images, preprocessing), parts, num_workers)


def _build_batch(
    images: LabeledImages, preprocessing: Preprocessing, part: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Center crops (B, 3, S, S), channels-last, and labels (B,) of some of the chosen images."""
    loaded = [load(images.source, int(images.chosen[index])).image for index in part]
    crops = torch.stack([center_crop(image, preprocessing) for image in loaded])
    labels = torch.tensor([int(images.labels[index]) for index in part])
    return crops.contiguous(memory_format=torch.channels_last), labels


def suggest_numbers(source: ImageSource) -> str:
    """The rest of a message that classes are unknown, where numbers may be meant as class ids."""
    is_numbered = getattr(source, "classes_are_numbers", False)
    if is_numbered or numbers_of(source.class_names or [""]) is None:
        return ""
    return "; if their numbers are the ids of the model's classes, set images.classes by_number"


def is_distributed() -> bool:
    """Whether several processes share a run."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def some_names(names: Sequence[str] | None) -> str:
    """The first of some class names, for messages."""
    names = names or []
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
