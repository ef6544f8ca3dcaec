"""Where the crops of an image lie: random boxes and flips, pure functions of (seed, image, number).

Boxes as torchvision's RandomResizedCrop draws them and flips as RandomHorizontalFlip does, from our
own generator. Fresh crops identify an image by its key. The crops of labels identify it by its
content (`content_key`), so the same files give the same labels wherever they lie and whatever they
are called; a compact label store, which knows checksum, length and size of each file, need not keep
them. Needs numpy only.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.1; torchvision.transforms.RandomResizedCrop.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fkd.checks import require_in, require_whole
from fkd.errors import ConfigError
from fkd.randomness import Purpose, stream_keys, uniform_blocks

GENERATOR = "philox4x32-10"
"""What a store calls this way of drawing; another one needs another name."""

DRAWN_FROM = "content"
"""What a store calls the way that its crops identify an image: `content_key`."""

# Ten tries (torchvision gives up after ten) of an area and a ratio, then top, left, flip: of these
# 23 draws, in blocks of four, nearly every crop needs the first two tries and the last block alone.
_FIRST_BLOCKS, _FURTHER_BLOCKS = (0, 5), (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How random crops are drawn; by default as torchvision's RandomResizedCrop and flip do.

    Attributes:
        scale: smallest and largest share of the image's area in a crop, 0 to 1.
        ratio: smallest and largest width / height of a crop.
        flip_prob: probability of a horizontal flip.
        seed: of the random crops.

    Raises:
        ConfigError: a range or a probability is impossible.

    Example:
        >>> import numpy as np
        >>> from fkd import CropConfig, sample_crops
        >>> config = CropConfig(scale=(0.25, 1.0), flip_prob=0.0, seed=7)
        >>> sample_crops(config, b"cat/1.jpg", (375, 500), np.arange(2)).box
        array([[ 13,   5, 356, 452],
               [141, 204, 229, 206]])
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ConfigError(f"crops.scale must satisfy 0 < min <= max <= 1, got {self.scale}")
        if not 0.0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"crops.ratio must satisfy 0 < min <= max, got {self.ratio}")
        require_in("[0, 1]", "crops.flip_prob", self.flip_prob)
        require_whole(None, "crops.seed", self.seed)


@dataclass(frozen=True)
class CropDraws:
    """Random numbers of many crops, drawn before the sizes of their images are known.

    Attributes:
        streams: random stream of each crop, uint64 (...).
        numbers: number of each crop, uint64 (...).
        first: draws of the first two tries, the corner and the flip, float64 (..., 8).
    """

    streams: np.ndarray
    numbers: np.ndarray
    first: np.ndarray

    def __getitem__(self, image: int) -> "CropDraws":
        """The draws of one image, where the first axis counts images."""
        return CropDraws(self.streams[image], self.numbers[image], self.first[image])


def content_key(crc32: int, num_bytes: int) -> bytes:
    """What identifies an image where crops of labels are drawn, in the place of its key.

    The CRC-32 (4 bytes) and the length (8 bytes) of the encoded file, little-endian; a label store
    keeps both of each image. Files with the same bytes get the same crops.

    Example:
        >>> from zlib import crc32
        >>> content_key(crc32(b"encoded"), len(b"encoded")).hex()
        '816140d60700000000000000'
    """
    return (crc32 % 2**32).to_bytes(4, "little") + (num_bytes % 2**64).to_bytes(8, "little")


def content_streams(seed: int, crc32: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """The streams of labeled images, uint64 (B,), from checksum and length of their files (B,)."""
    files = zip(crc32.tolist(), num_bytes.tolist(), strict=True)
    return stream_keys(seed, [content_key(*file) for file in files])


def draw_crops(streams: ArrayLike, numbers: ArrayLike) -> CropDraws:
    """Draw for the crops `numbers` of the images with these streams (see `stream_key`).

    Args:
        streams: uint64, broadcast against `numbers`: (B, 1) and (m,) give m crops of B images.
        numbers: crop numbers, from 0; a store holds 0 .. M-1, fresh crops have no upper limit.
    """
    stream, number = np.broadcast_arrays(
        np.asarray(streams, np.uint64), np.asarray(numbers, np.uint64)
    )
    return CropDraws(stream, number, uniform_blocks(stream, Purpose.CROP, number, _FIRST_BLOCKS))


def place_crops(
    config: CropConfig, draws: CropDraws, sizes: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, int64 (..., 4): top, left, height, width in pixels; and flips, bool (...).

    Args:
        config: how areas and ratios are distributed.
        draws: of each crop (...).
        sizes: height and width of the decoded images, pixels, broadcast to (..., 2).
    """
    first = draws.first.reshape(-1, 8)
    size = np.broadcast_to(np.asarray(sizes, np.int64), (*draws.first.shape[:-1], 2)).reshape(-1, 2)
    sides = _first_fit(config, size, first[:, :4])
    if not sides.all():
        again = np.flatnonzero(sides[:, 0] == 0)
        further = uniform_blocks(
            draws.streams.reshape(-1)[again],
            Purpose.CROP,
            draws.numbers.reshape(-1)[again],
            _FURTHER_BLOCKS,
        )
        sides[again] = _first_fit(config, size[again], further)
    fallback = sides[:, :1] == 0
    if fallback.any():
        sides = np.where(fallback, _fallback_sides(config.ratio, size), sides)
    free = size - sides
    corner = np.floor(first[:, 4:6] * (free + 1)).astype(np.int64)
    corner = np.where(fallback, free // 2, corner)
    box = np.concatenate([corner, sides], axis=1)
    flip = first[:, 6] < config.flip_prob
    return box.reshape(*draws.first.shape[:-1], 4), flip.reshape(draws.first.shape[:-1])


def sample_boxes(
    config: CropConfig, streams: ArrayLike, sizes: ArrayLike, numbers: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int64 (B, m, 4) and flips bool (B, m) of m crops of each of B images.

    Args:
        config: how crops are drawn; its seed is already part of the streams.
        streams: uint64 (B,), see `content_streams` and `fkd.randomness.stream_keys`.
        sizes: (B, 2), height and width of the decoded images.
        numbers: (B, m), crop numbers.
    """
    draws = draw_crops(np.asarray(streams, np.uint64)[:, None], numbers)
    return place_crops(config, draws, np.asarray(sizes)[:, None])


def _first_fit(config: CropConfig, size: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Height and width (n, 2) of the first try that fits into its image; 0 where none does.

    Args:
        config: ranges of area and ratio.
        size: (n, 2), of the images.
        draws: (n, 2 * tries), area and ratio of each try.
    """
    area = (size[:, :1] * size[:, 1:]) * _between(config.scale, draws[:, 0::2])
    ratio = np.exp(_between((np.log(config.ratio[0]), np.log(config.ratio[1])), draws[:, 1::2]))
    width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= size[:, 1:]) & (height > 0) & (height <= size[:, :1])
    first = (np.arange(len(draws)), fits.argmax(axis=1))
    return np.where(fits[first][:, None], np.stack([height[first], width[first]], axis=1), 0)


def _fallback_sides(ratio: tuple[float, float], size: np.ndarray) -> np.ndarray:
    """Height and width (n, 2) of the largest center crops whose aspect lies within `ratio`."""
    height, width = size[:, 0], size[:, 1]
    aspect = width / height
    lower = np.maximum(1, np.rint(width / ratio[0]).astype(np.int64))
    narrower = np.maximum(1, np.rint(height * ratio[1]).astype(np.int64))
    return np.stack(
        [
            np.where(aspect < ratio[0], lower, height),
            np.where(aspect > ratio[1], narrower, width),
        ],
        axis=1,
    )


def _between(limits: tuple[float, float], draws: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * draws
