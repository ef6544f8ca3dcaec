"""Where the crops of an image lie, and how a record becomes pixels again.

`sample_crops` draws records as torchvision's RandomResizedCrop and RandomHorizontalFlip do, from
our own generator; `replay` turns a decoded image and records into crops of any size. Labelling and
training call the same `replay`, so a student sees exactly the region that the teacher labelled.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.1; torchvision.transforms.RandomResizedCrop.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fkd.augment import NO_AUGMENT, AugmentConfig, apply_augment, sample_augment
from fkd.errors import ConfigError
from fkd.randomness import Purpose, stream_key, uniforms
from fkd.records import CropRecords

Interpolation = Literal["bilinear", "bicubic"]
_TRIES = 10  # torchvision's RandomResizedCrop gives up after ten
_DRAWS = 2 * _TRIES + 3  # (area, ratio) of each try, then top, left, flip


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How the crops of every image are drawn.

    Attributes:
        num_crops: crops stored per image (M).
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.
        flip_prob: probability of mirroring a crop.
        seed: picks the whole set of crops.
    """

    num_crops: int = 200
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_crops < 1:
            raise ConfigError(f"num_crops must be at least 1, got {self.num_crops}")
        if not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ConfigError(f"scale must satisfy 0 < min <= max <= 1, got {self.scale}")
        if not 0.0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"ratio must satisfy 0 < min <= max, got {self.ratio}")
        if not 0.0 <= self.flip_prob <= 1.0:
            raise ConfigError(f"flip_prob must lie in [0, 1], got {self.flip_prob}")


def sample_crops(
    config: CropConfig,
    key: bytes,
    size: tuple[int, int],
    numbers: np.ndarray,
    augment: AugmentConfig = NO_AUGMENT,
) -> CropRecords:
    """The records of the crops `numbers` (n,) of one image, a pure function of the arguments.

    Args:
        key: the image's key; together with `config.seed` it picks the random stream.
        size: height and width of the decoded image, pixels.
        numbers: crop numbers; the store holds 0 .. M-1, fresh views may go on for ever.
        augment: further augmentations to draw parameters for.
    """
    draws = uniforms(stream_key(config.seed, key), Purpose.CROP, numbers, _DRAWS)
    height, width = _sample_sides(config, size, draws[:, : 2 * _TRIES])
    fallback = height == 0
    fallback_height, fallback_width = _fallback_sides(config.ratio, size)
    height = np.where(fallback, fallback_height, height)
    width = np.where(fallback, fallback_width, width)
    free = np.stack([size[0] - height, size[1] - width])
    random_corner = np.floor(draws[:, 2 * _TRIES : 2 * _TRIES + 2].T * (free + 1)).astype(np.int64)
    top, left = np.where(fallback, free // 2, random_corner)
    return CropRecords(
        np.stack([top, left, height, width], axis=-1),
        draws[:, -1] < config.flip_prob,
        sample_augment(augment, stream_key(config.seed, key), numbers),
    )


def _sample_sides(
    config: CropConfig, size: tuple[int, int], draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Height and width (n,) of the first of ten tries that fits; 0 where none does."""
    area = size[0] * size[1] * _between(config.scale, draws[:, 0::2])
    ratio = np.exp(_between((np.log(config.ratio[0]), np.log(config.ratio[1])), draws[:, 1::2]))
    width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= size[1]) & (height > 0) & (height <= size[0])
    first = (np.arange(len(draws)), fits.argmax(axis=1))
    return np.where(fits[first], height[first], 0), np.where(fits[first], width[first], 0)


def _fallback_sides(ratio: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest centre crop whose aspect lies within `ratio`."""
    height, width = size
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


def _between(limits: tuple[float, float], draws: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * draws


def replay(
    image: Tensor, records: CropRecords, size: int | tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """The crops that `records` describe, uint8 (n, 3, height, width), channels-last.

    Crop, antialiased resize, flip, then the further augmentations of the records.

    Args:
        image: uint8 (3, H, W); fastest when its memory is channels-last, as `decode_image` gives.
        records: n records whose boxes lie inside the image.
        size: side of the square crops, or (height, width), pixels.

    Differs: torch's antialiased uint8 resize instead of Pillow's; at most 2 grey levels apart.
    """
    height, width = (size, size) if isinstance(size, int) else size
    crops = torch.empty(
        (len(records), 3, height, width), dtype=torch.uint8, memory_format=torch.channels_last
    )
    for crop, box, flip in zip(crops, records.box.tolist(), records.flip.tolist(), strict=True):
        resized = resize(_cut(image, box), (height, width), interpolation)
        crop.copy_(resized.flip(-1) if flip else resized)
    return apply_augment(crops, records.extra)


def resize(image: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """A uint8 image (3, H, W) at another size, antialiased."""
    return F.interpolate(image[None], size=size, mode=interpolation, antialias=True)[0]


def _cut(image: Tensor, box: list[int]) -> Tensor:
    top, left, height, width = box
    return image[:, top : top + height, left : left + width]
