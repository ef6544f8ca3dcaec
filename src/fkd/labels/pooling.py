"""The soft label of any crop of an image, pooled from a map of labels of the whole image.

    map: gh x gw cells, K logits each --weights of a crop--> logits of the crop --softmax--> q

The weights are those of a 1x1 RoI align: n points spread evenly over the crop along each axis, each
shared linearly between the two cells whose centers (at whole numbers) it lies between,

    cell centers     0       1       2       3        a crop of 2.4 cells has n = 3 points
    points               x       x       x

so the weight of cell (y, x) is the product of one number for y and one for x. Pooling is linear and
comes before the softmax; with "zero" for the classes that a cell lacks, only classes that some cell
names ever differ from the rest, and no label of C classes is made.

Pure functions of arrays; knows no files, no images. Source: Re-labeling ImageNet (Yun et al., CVPR
2021), Sec. 3.2, and the authors' code; torchvision.ops.roi_align.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.labels.targets import SoftTargets

Variant = Literal["localized_multi", "localized_single", "global_multi", "global_single"]
Fill = Literal["zero", "smallest_kept", "minus_infinity"]

_CROPS_AT_ONCE = 32  # 1,125 kept logits and 1,000 classes each then stay in a processor's cache
_MISSING = 1e-6  # weight that may be lost to rounding where a class is in every cell of a crop


@dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """ReLabel: how the label of a crop is pooled from a label map.

    Attributes:
        variant: localized_multi (soft label of the crop; the method), localized_single (its most
            probable class alone), global_multi and global_single (the same of the whole image,
            whatever the crop).
        fill: logit of the classes that a cell does not name: zero (as the authors' code),
            smallest_kept (its smallest kept one) or minus_infinity (a class must be in all cells of
            the crop; where none is, smallest_kept).
        swap_xy: exchange the axes of crops, as the authors' code reads them.
        fallback: use the true class where the most probable class has less than this; 0 never does.
        fallback_smoothing: label smoothing of the true class there.
    """

    variant: Variant = "localized_multi"
    fill: Fill = "zero"
    swap_xy: bool = False
    fallback: float = 0.0
    fallback_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (("variant", Variant), ("fill", Fill)):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ConfigError(f"relabel.{name}: {getattr(self, name)!r} is none of {known}")
        if not 0.0 <= self.fallback <= 1.0:
            raise ConfigError(f"relabel.fallback must lie in [0, 1], got {self.fallback}")
        if not 0.0 <= self.fallback_smoothing < 1.0:
            raise ConfigError(
                f"relabel.fallback_smoothing must lie in [0, 1), got {self.fallback_smoothing}"
            )


def crop_weights(
    config: PoolingConfig, box: np.ndarray, size: np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """What each cell counts for each crop, float64 (..., gh * gw); rows sum to 1.

    Args:
        config: which variant.
        box: (..., 4), top, left, height, width of crops, pixels.
        size: height and width of their images, pixels, broadcast to (..., 2).
        grid: gh and gw.
    """
    if config.variant.startswith("global"):
        return np.full((*box.shape[:-1], grid[0] * grid[1]), 1.0 / (grid[0] * grid[1]))
    return roi_align_weights(box, size, grid, swap_axes=config.swap_xy)


def roi_align_weights(
    box: np.ndarray, size: np.ndarray, grid: tuple[int, int], *, swap_axes: bool = False
) -> np.ndarray:
    """The weights (..., gh * gw) by which RoI align averages a map; see `crop_weights`.

    That of torchvision with output 1x1, spatial_scale 1, sampling_ratio -1, aligned=False, for
    boxes in cells less 1/2. A crop narrower than a cell is therefore widened to one, to the right
    and downwards.

    Args:
        swap_axes: take the vertical extent for the horizontal one and the other way round.

    Differs: in float64; torchvision's float32 has a point more or less for some crops whose sides
    are whole numbers of cells.
    """
    start, stop = box[..., :2] / size, (box[..., :2] + box[..., 2:]) / size
    vertical, horizontal = (1, 0) if swap_axes else (0, 1)
    y = _axis_weights(start[..., vertical], stop[..., vertical], grid[0])
    x = _axis_weights(start[..., horizontal], stop[..., horizontal], grid[1])
    product: np.ndarray = y[..., :, None] * x[..., None, :]
    return product.reshape(*box.shape[:-1], grid[0] * grid[1])


def _axis_weights(start: np.ndarray, stop: np.ndarray, count: int) -> np.ndarray:
    """Weights (..., count) of cells along an axis for the part from `start` to `stop` of it."""
    first = count * start - 0.5
    side = np.maximum(count * stop - 0.5 - first, 1.0)
    num_points = np.ceil(side)
    number = np.arange(num_points.max(initial=1.0))
    points = first[..., None] + (number + 0.5) * (side / num_points)[..., None]
    distance = np.abs(points.clip(0.0, count - 1.0)[..., None] - np.arange(count))
    shares = np.maximum(0.0, 1.0 - distance)
    shares[number >= num_points[..., None]] = 0.0
    weights: np.ndarray = shares.sum(axis=-2)
    weights /= num_points[..., None]
    return weights


def pool_maps(
    config: PoolingConfig,
    index: np.ndarray,
    value: np.ndarray,
    weights: np.ndarray,
    num_classes: int,
) -> SoftTargets:
    """The labels of m crops of each of B images, image after image; sparse.

    Args:
        config: which variant.
        index: int64 (B, cells, K), distinct classes of each cell.
        value: (B, cells, K), their logits.
        weights: (B, m, cells), from `crop_weights`.
        num_classes: C.

    Microseconds a crop, weights included (15 x 15 cells of 5, one thread, batches of 64 images):
    18 for 1,000 classes, 75 for 21,841; dense, by torchvision, 1,360 and 36,800.
    """
    num_images, m, num_cells = weights.shape
    flat = weights.reshape(num_images * m, num_cells)
    image = np.repeat(np.arange(num_images), m)
    parts = []
    for first in range(0, len(flat), _CROPS_AT_ONCE):
        own = slice(first, first + _CROPS_AT_ONCE)
        logits = _pool(config.fill, index, value, image[own], flat[own], num_classes)
        single = config.variant.endswith("single")
        parts.append(_most_probable(logits) if single else _softmax(logits))
    return _joined(parts, num_classes)


@dataclass(frozen=True)
class _Logits:
    """Pooled logits of n crops, float64 (n, C), up to a number of each crop's own.

    Attributes:
        value: 0 for the classes that no cell names.
        possible: (n, C), which classes have a probability; None for all.
    """

    value: np.ndarray
    possible: np.ndarray | None


def _pool(
    fill: Fill,
    index: np.ndarray,
    value: np.ndarray,
    image: np.ndarray,
    weights: np.ndarray,
    num_classes: int,
) -> _Logits:
    """Average the maps of these images (n,) by these weights (n, cells).

    Summed up in n x C numbers. Microseconds a crop, beside sorting what the cells name: 9 instead
    of 33 for 1,000 classes, 51 instead of 34 for 21,841.
    """
    crop, cell = np.nonzero(weights)
    share = weights[crop, cell][:, None]
    ids, logits = index[image[crop], cell], value[image[crop], cell].astype(np.float64)
    places = (crop[:, None] * num_classes + ids).reshape(-1)
    length = len(weights) * num_classes

    def summed(terms: np.ndarray) -> np.ndarray:
        total = np.bincount(places, terms.reshape(-1), length)
        return total.reshape(len(weights), num_classes)

    if fill == "zero":
        return _Logits(summed(share * logits), None)
    # A crop's logits may all be moved alike: relative to the cells' last ones, the rest is 0 again.
    above_last = summed(share * (logits - logits.min(axis=1, keepdims=True)))
    if fill == "smallest_kept":
        return _Logits(above_last, None)
    everywhere = summed(np.broadcast_to(share, ids.shape)) > 1.0 - _MISSING
    nowhere = np.logical_not(everywhere.any(axis=1))
    everywhere[nowhere] = True
    relative = np.where(nowhere[:, None], above_last, summed(share * logits))
    return _Logits(relative, everywhere)


@dataclass(frozen=True)
class _Part:
    """Sparse labels of n crops: class ids (n, D), weights (n, D) and tails (n,), all float64."""

    index: np.ndarray
    weight: np.ndarray
    tail: np.ndarray


def _most_probable(logits: _Logits) -> _Part:
    value = logits.value
    if logits.possible is not None:
        value = np.where(logits.possible, value, -np.inf)
    best = value.argmax(axis=1)[:, None]
    return _Part(best, np.ones(best.shape), np.zeros(len(best)))


def _softmax(logits: _Logits) -> _Part:
    """Classes of logit 0 make up the tail; the others are listed, filled up by weights of 0."""
    named = logits.value != 0.0
    num_others = named.shape[1] - np.count_nonzero(named, axis=1)
    if logits.possible is not None:
        num_others = np.count_nonzero(logits.possible & ~named, axis=1)
        named = named & logits.possible
    row, ids = np.nonzero(named)
    counts = np.bincount(row, minlength=len(named))
    column = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    shape = (len(named), max(1, int(counts.max(initial=0))))
    index, kept = np.zeros(shape, np.int64), np.full(shape, -np.inf)
    index[row, column], kept[row, column] = ids, logits.value[row, ids]
    # Others may be impossible: then the 0 among the exponents is only a number to keep them small.
    highest = np.where(num_others > 0, kept.max(axis=1).clip(min=0.0), kept.max(axis=1))
    power, other = np.exp(kept - highest[:, None]), np.exp(-highest)
    total = power.sum(axis=1) + num_others * other
    tail = np.where(num_others > 0, other / total, 0.0)
    q = power / total[:, None]
    return _Part(index, np.where(np.isfinite(kept), q - tail[:, None], 0.0), tail)


def _joined(parts: list[_Part], num_classes: int) -> SoftTargets:
    """All crops, with as many named classes as the widest part has."""
    width = max(part.index.shape[1] for part in parts)

    def wide(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])))

    return SoftTargets(
        torch.from_numpy(np.concatenate([wide(part.index) for part in parts])),
        torch.from_numpy(np.concatenate([wide(part.weight) for part in parts])).float(),
        torch.from_numpy(np.concatenate([part.tail for part in parts])).float(),
        num_classes,
    )


def fall_back(config: PoolingConfig, targets: SoftTargets, labels: Tensor) -> SoftTargets:
    """The targets, with the true class (B,) where they are less sure than `config.fallback`.

    Crops of unknown class (-1) stay as they are. `targets` are those of `pool_maps`.
    """
    assert targets.index is not None
    surest = (targets.weight + targets.tail[:, None]).max(dim=1).values
    doubtful = (surest < config.fallback) & (labels >= 0)
    truth = SoftTargets.one_hot(labels.clamp(min=0), targets.num_classes, config.fallback_smoothing)
    assert truth.index is not None
    width = targets.weight.shape[1] - 1
    index = torch.nn.functional.pad(truth.index, (0, width))
    weight = torch.nn.functional.pad(truth.weight, (0, width))
    return replace(
        targets,
        index=torch.where(doubtful[:, None], index, targets.index),
        weight=torch.where(doubtful[:, None], weight, targets.weight),
        tail=torch.where(doubtful, truth.tail, targets.tail),
    )
