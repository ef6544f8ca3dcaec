"""Images with their boxes, labels and masks, as torchvision's detectors take them.

Images keep their sizes: a detector resizes them itself, with their boxes and masks.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fkd.data.decode import Decoder, decode_image
from fkd.errors import ImageError
from fkd.randomness import Purpose, stream_key, uniforms
from fkd.transfer.coco import CocoImage, CocoSet, Instance
from fkd.transfer.masks import make_mask
from fkd.userfiles import os_reason

Target = dict[str, Tensor]
"""Of an image with N objects: "boxes" float32 (N, 4) as left, top, right, bottom in pixels,
"labels" int64 (N,), "area" float32 (N,), "iscrowd" int64 (N,), and "masks" uint8 (N, H, W)."""


@dataclass(frozen=True)
class DetectionBatch:
    """Images of any sizes and what is in them.

    Attributes:
        images: uint8 (3, H, W) each.
        targets: one for each image.
    """

    images: list[Tensor]
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device; does not wait for copies from pinned memory."""
        return type(self)(
            [image.to(device, non_blocking=True) for image in self.images],
            [
                {name: value.to(device, non_blocking=True) for name, value in target.items()}
                for target in self.targets
            ],
        )

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return type(self)(
            [image.pin_memory() for image in self.images],
            [{n: value.pin_memory() for n, value in target.items()} for target in self.targets],
        )

    def inputs(self) -> tuple[list[Tensor], list[Target]]:
        """What a detector is called with; images are float32 from 0 to 1."""
        return [image.float() / 255 for image in self.images], self.targets


@dataclass(frozen=True, kw_only=True)
class DetectionCutter:
    """Builds batches of images.

    Attributes:
        coco: the images.
        masks: whether targets have them.
        training: leave crowds out, which no detector learns, and cut boxes at the edge of the
            image; otherwise targets are those that AP is measured by.
        flip: probability that left and right of an image are exchanged; of training.
        seed: of the flips.
        decoder: decodes the images.
    """

    coco: CocoSet
    masks: bool
    training: bool
    flip: float = 0.0
    seed: int = 0
    decoder: Decoder = "pillow"

    def cut(self, images: Sequence[int], start: int, crops_per_image: int = 1) -> DetectionBatch:
        """The batch of images by position; `start`, the epoch, picks the flips.

        Raises:
            ImageError: a file cannot be read or decoded, or has another size than its entry says.
        """
        examples = [self._example(self.coco.images[i], start) for i in images]
        return DetectionBatch([image for image, _ in examples], [target for _, target in examples])

    def _example(self, entry: CocoImage, epoch: int) -> tuple[Tensor, Target]:
        image = read_image(self.coco, entry, self.decoder)
        target = build_target(entry, masks=self.masks, training=self.training)
        if self.flip and self._flips(entry, epoch):
            return flip_example(image, target)
        return image, target

    def _flips(self, entry: CocoImage, epoch: int) -> bool:
        stream = stream_key(self.seed, b"image %d" % entry.id)
        return bool(uniforms(stream, Purpose.AUGMENT, epoch, 1)[0] < self.flip)


def read_image(coco: CocoSet, entry: CocoImage, decoder: Decoder = "pillow") -> Tensor:
    """The pixels of an image, uint8 (3, H, W).

    Raises:
        ImageError: see `DetectionCutter.cut`.
    """
    path = os.path.join(coco.folder, entry.file_name)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {os_reason(error)}") from error
    image = decode_image(data, path, decoder)
    height, width = image.shape[1:]
    if (height, width) != (entry.height, entry.width):
        turned = (width, height) == (entry.height, entry.width)
        hint = " (turned by its EXIF orientation?)" if turned else ""
        raise ImageError(
            f"{path} has {width}x{height} pixels, but image {entry.id} of {coco.path} is "
            f"{entry.width}x{entry.height}{hint}, so boxes would not fit; replace the file, or "
            "correct the entry"
        )
    return image


def build_target(entry: CocoImage, *, masks: bool, training: bool) -> Target:
    """What is in an image; see `DetectionCutter` for what `training` changes."""
    instances = [one for one in entry.instances if not (training and one.is_crowd)]
    boxes = torch.tensor([one.box for one in instances], dtype=torch.float32).reshape(-1, 4)
    if training:
        edges = torch.tensor([entry.width, entry.height] * 2, dtype=torch.float32)
        boxes = torch.minimum(boxes.clamp(min=0), edges)
    target = {
        "boxes": boxes,
        "labels": torch.tensor([one.label for one in instances], dtype=torch.int64),
        "area": torch.tensor([one.area for one in instances], dtype=torch.float32),
        "iscrowd": torch.tensor([one.is_crowd for one in instances], dtype=torch.int64),
    }
    if masks:
        target["masks"] = _stack_masks(instances, entry)
    return target


def flip_example(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """An image and its target with left and right exchanged."""
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    flipped = {**target, "boxes": boxes}
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(2)
    return image.flip(2), flipped


def _stack_masks(instances: Sequence[Instance], entry: CocoImage) -> Tensor:
    """Masks of instances, uint8 (N, H, W)."""
    masks = np.zeros((len(instances), entry.height, entry.width), np.uint8)
    for mask, one in zip(masks, instances, strict=True):
        assert one.segmentation is not None  # read_coco was asked for them
        mask[:] = make_mask(one.segmentation, entry.height, entry.width)
    return torch.from_numpy(masks)
