"""How the record of a crop is drawn, and how it becomes pixels again.

`sample_crops` draws records (boxes and flips as `fkd.crops.sampling` does, further augmentations
as `fkd.crops.augment` does); `replay` turns a decoded image and records into crops of any size.
Labeling and training call the same `replay`, so a student sees exactly the region that the teacher
labeled.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.1.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fkd.crops.augment import NO_AUGMENT, AugmentConfig, apply_augment, sample_augment
from fkd.crops.records import CropRecords
from fkd.crops.sampling import CropConfig, draw_crops, place_crops
from fkd.randomness import stream_key

Interpolation = Literal["bilinear", "bicubic"]


class InputSpec(NamedTuple):
    """The crops that a network takes.

    Attributes:
        size: side of the square crops, pixels.
        interpolation: how they are resized.
        augmented: whether the student-only augmentation is applied.
    """

    size: int
    interpolation: Interpolation
    augmented: bool = False


def sample_crops(
    config: CropConfig,
    key: bytes,
    size: tuple[int, int],
    numbers: np.ndarray,
    augment: AugmentConfig = NO_AUGMENT,
) -> CropRecords:
    """The records of the crops `numbers` (n,) of one image, a pure function of the arguments.

    Args:
        config: how crops are drawn.
        key: identifies the image, together with `config.seed` it picks the random stream: its key,
            or for crops of labels `fkd.crops.sampling.content_key` of its file.
        size: height and width of the decoded image, pixels.
        numbers: crop numbers, from 0; a store holds 0 .. M-1, fresh crops have no upper limit.
        augment: further augmentations to draw parameters for.

    Example:
        >>> import numpy as np
        >>> from fkd import CropConfig, sample_crops
        >>> records = sample_crops(CropConfig(), b"cat/1.jpg", (375, 500), np.arange(3))
        >>> records.box  # top, left, height, width
        array([[181, 181, 151, 162],
               [ 71, 101, 284, 293],
               [124, 105, 212, 199]])
        >>> records.flip
        array([ True,  True,  True])
    """
    stream = stream_key(config.seed, key)
    box, flip = place_crops(config, draw_crops(stream, numbers), size)
    return CropRecords(box, flip, sample_augment(augment, stream, numbers))


def whole_image(size: tuple[int, int]) -> CropRecords:
    """One record: all of an image of this height and width, unflipped."""
    return CropRecords(np.array([[0, 0, *size]], np.int64), np.zeros(1, bool))


def replay(
    image: Tensor,
    records: CropRecords,
    size: int | tuple[int, int],
    interpolation: Interpolation,
    out: Tensor | None = None,
) -> Tensor:
    """The crops that `records` describe, uint8 (n, 3, height, width), channels-last.

    Crop, antialiased resize, flip, then the further augmentations of the records.

    Args:
        image: uint8 (3, H, W); fastest when its memory is channels-last, as `decode_image` gives.
        records: n records whose boxes lie inside the image.
        size: side of the square crops, or (height, width), pixels.
        interpolation: how they are resized.
        out: where to put the crops, of their shape; by default new memory.

    Differs: torch's antialiased uint8 resize instead of Pillow's. Both clip to bytes between the
    two directions, and Pillow 13 takes the vertical one of tall crops first. With bicubic, 44 of
    400 real crops have pixels more than 2 gray levels apart, up to 15; of high contrast, more.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from fkd import CropConfig, replay, sample_crops
        >>> image = torch.zeros(3, 375, 500, dtype=torch.uint8)
        >>> records = sample_crops(CropConfig(), b"cat/1.jpg", (375, 500), np.arange(3))
        >>> replay(image, records, 224, "bilinear").shape
        torch.Size([3, 3, 224, 224])
    """
    height, width = (size, size) if isinstance(size, int) else size
    if out is None:
        out = torch.empty((len(records), height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    batch = _batch_of_one(image)
    boxes, flips = records.box.tolist(), records.flip.tolist()
    for crop, (top, left, h, w), flip in zip(out, boxes, flips, strict=True):
        cut = batch[:, :, top : top + h, left : left + w]
        resized = F.interpolate(cut, (height, width), mode=interpolation, antialias=True)[0]
        crop.copy_(resized.flip(-1) if flip else resized)
    apply_augment(out, records.extra)
    return out


def resize(image: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """A uint8 image (3, H, W) at another size, antialiased."""
    return F.interpolate(_batch_of_one(image), size, mode=interpolation, antialias=True)[0]


def _batch_of_one(image: Tensor) -> Tensor:
    """An image (3, H, W) as a batch (1, 3, H, W), which torch recognizes as channels-last.

    With `image[None]` the stride of the batch axis is that of one pixel; torch then
    resizes cuts as if they were contiguous, at half the speed.
    """
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
