"""Augmentations beyond crop and flip whose parameters can be drawn, stored and replayed.

`sample_augment` draws parameters, `apply_augment` applies them; nothing random happens in between,
so the teacher and any student can see the same pixels. Parameters do not depend on the crop's size:
lengths are fractions of the side, blur is given for a 224-pixel crop.

A *teacher augmentation* was seen by the teacher: its parameters are stored with the label. A
*student augmentation* is drawn anew on top of the stored crop.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.1. Parameters: torchvision's ColorJitter,
RandomGrayscale, GaussianBlur, RandAugment (Cubuk et al. 2020), RandomErasing (Zhong et al. 2020),
lighting by the principal components of ImageNet's colors (Krizhevsky et al. 2012).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import ArrayLike
from torch import Tensor

from fkd.checks import (
    changed_fields,
    require_at_least,
    require_in,
    require_one_of,
    require_whole,
)
from fkd.errors import ConfigError, FormatError
from fkd.randomness import Purpose, uniforms

_ORDERS = list(permutations(range(4)))  # brightness, contrast, saturation, hue
_BLUR_SIDE = 224.0  # blur sigma is stored in pixels of a crop of this side
_ERASED = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]  # ImageNet's mean color
_RAND_AUGMENT_BINS = 30.0
_ROUNDING = 1e-4  # of parameters stored as float32
# Eigenvalues, and eigenvectors in columns, of the covariance of ImageNet's colors, white being 1.
_COLOR_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
_PRINCIPAL_COLORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
Preset = Literal["s2bnn", "moco_v2"]
_MOCO_V2: dict[str, Any] = {
    "color_jitter": (0.4, 0.4, 0.4, 0.1),
    "color_jitter_prob": 0.8,
    "grayscale_prob": 0.2,
    "blur_prob": 0.5,
}
_PRESETS: dict[str, dict[str, Any]] = {
    "moco_v2": _MOCO_V2,
    "s2bnn": _MOCO_V2 | {"color_jitter_prob": 0.6, "blur_prob": 0.2},
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Which augmentations to draw, and how strong; the default draws none.

    Attributes:
        preset: s2bnn or moco_v2: the color jitter, grayscale and blur of that paper, where the
            settings below are not given; its crops are those of crops.scale 0.2 1. Turns into these
            settings.
        color_jitter: strength of brightness, contrast, saturation and hue (hue at most 0.5).
        color_jitter_prob: share of the crops that are jittered.
        lighting: deviation of the noise along the principal colors; the paper's full recipe and
            ReLabel use 0.1.
        grayscale_prob: share of the crops turned gray.
        blur_prob: share of the crops blurred.
        blur_sigma: smallest and largest Gaussian sigma, pixels of a 224-pixel crop.
        rand_augment_ops: RandAugment operations per crop.
        rand_augment_magnitude: strength of each, 0 .. 30.
        erase_prob: share of the crops with an erased rectangle.
        erase_scale: smallest and largest erased share of the area.

    Example:
        >>> import numpy as np
        >>> from fkd import AugmentConfig, CropConfig, sample_crops
        >>> augment = AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale_prob=0.2)
        >>> records = sample_crops(CropConfig(), b"cat/1.jpg", (375, 500), np.arange(8), augment)
        >>> {name: array.shape for name, array in records.extra.items()}
        {'jitter': (8, 4), 'jitter_order': (8,), 'gray': (8,)}
    """

    preset: Preset | None = None
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_prob: float = 1.0
    lighting: float = 0.0
    grayscale_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    rand_augment_ops: int = 0
    rand_augment_magnitude: float = 9.0
    erase_prob: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)

    def __post_init__(self) -> None:
        self._apply_preset()
        for name in ("color_jitter_prob", "grayscale_prob", "blur_prob", "erase_prob"):
            require_in("[0, 1]", name, getattr(self, name))
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ConfigError(f"color_jitter needs strengths >= 0, hue <= 0.5: {self.color_jitter}")
        require_in("[0, 30]", "rand_augment_magnitude", self.rand_augment_magnitude)
        require_at_least(0, "lighting", self.lighting)
        require_whole(0, "rand_augment_ops", self.rand_augment_ops)

    def _apply_preset(self) -> None:
        """Put the preset's values in the place of defaults.

        The preset itself is forgotten: a store is known by the values.
        """
        require_one_of(Preset, "preset", self.preset)
        if self.preset is not None:
            values = _PRESETS[self.preset]
            for name in values.keys() - changed_fields(self):
                object.__setattr__(self, name, values[name])
            object.__setattr__(self, "preset", None)

    @property
    def columns(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name to (dtype, shape per crop) of the parameters that these settings draw."""
        ops = (self.rand_augment_ops,)
        columns: list[tuple[bool, dict[str, tuple[str, tuple[int, ...]]]]] = [
            (max(self.color_jitter) > 0, {"jitter": ("<f4", (4,)), "jitter_order": ("|u1", ())}),
            (self.lighting > 0, {"lighting": ("<f4", (3,))}),
            (self.grayscale_prob > 0, {"gray": ("|u1", ())}),
            (self.blur_prob > 0, {"blur": ("<f4", ())}),
            (ops[0] > 0, {"rand_op": ("|u1", ops), "rand_magnitude": ("<f4", ops)}),
            (self.erase_prob > 0, {"erase": ("<f4", (4,))}),
        ]
        return {name: spec for on, specs in columns if on for name, spec in specs.items()}


NO_AUGMENT = AugmentConfig()


def sample_augment(
    config: AugmentConfig,
    stream: int,
    numbers: ArrayLike,
    purpose: Purpose = Purpose.AUGMENT,
) -> dict[str, np.ndarray]:
    """Parameters of the crops `numbers` (n,), each (n, *shape) as `config.columns` says.

    Adding one augmentation does not change the parameters of another: each owns fixed draws.
    """
    if not config.columns:
        return {}
    draws = uniforms(stream, purpose, numbers, 24 + 2 * config.rand_augment_ops)
    sampled: dict[str, np.ndarray] = {}
    if "jitter" in config.columns:
        sampled |= _sample_jitter(config, draws[:, 0:6])
    if "gray" in config.columns:
        sampled["gray"] = draws[:, 6] < config.grayscale_prob
    if "blur" in config.columns:
        sigma = _between(config.blur_sigma, draws[:, 8])
        sampled["blur"] = np.where(draws[:, 7] < config.blur_prob, sigma, 0.0)
    if "lighting" in config.columns:
        sampled["lighting"] = _sample_lighting(config, draws[:, 14:18])
    if "erase" in config.columns:
        sampled["erase"] = _sample_erase(config, draws[:, 9:14])
    if "rand_op" in config.columns:
        sampled |= _sample_rand_augment(config, draws[:, 24:])
    return {
        name: sampled[name].astype(np.dtype(dtype)) for name, (dtype, _) in config.columns.items()
    }


def _sample_jitter(config: AugmentConfig, draws: np.ndarray) -> dict[str, np.ndarray]:
    strength = np.array(config.color_jitter)
    low = np.maximum(np.array([1.0, 1.0, 1.0, 0.0]) - strength, [0.0, 0.0, 0.0, -0.5])
    high = np.array([1.0, 1.0, 1.0, 0.0]) + strength
    factors = low + (high - low) * draws[:, :4]
    applied = draws[:, 5:6] < config.color_jitter_prob
    return {
        "jitter": np.where(applied, factors, [1.0, 1.0, 1.0, 0.0]),
        "jitter_order": np.floor(draws[:, 4] * len(_ORDERS)),
    }


def _sample_lighting(config: AugmentConfig, draws: np.ndarray) -> np.ndarray:
    """What is added to red, green and blue, where white is 1: normal steps along each component.

    Normal numbers by Box and Muller, from two pairs of uniform ones.
    """
    radius = np.sqrt(-2.0 * np.log1p(-draws[:, 0::2]))
    angle = 2.0 * np.pi * draws[:, 1::2]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :3]
    added: np.ndarray = (config.lighting * normal * _COLOR_DEVIATIONS) @ _PRINCIPAL_COLORS.T
    return added


def _sample_erase(config: AugmentConfig, draws: np.ndarray) -> np.ndarray:
    """Top, left, height, width as fractions of the crop; all 0 where nothing is erased."""
    area = _between(config.erase_scale, draws[:, 1])
    aspect = np.exp(_between((math.log(0.3), math.log(1 / 0.3)), draws[:, 2]))
    height = np.minimum(np.sqrt(area * aspect), 1.0)
    width = np.minimum(np.sqrt(area / aspect), 1.0)
    top, left = draws[:, 3] * (1.0 - height), draws[:, 4] * (1.0 - width)
    applied = draws[:, :1] < config.erase_prob
    return np.where(applied, np.stack([top, left, height, width], axis=-1), 0.0)


def _sample_rand_augment(config: AugmentConfig, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Operation numbers, and the parameter each operation takes (sign included)."""
    ops = np.floor(draws[:, 0::2] * len(_RAND_AUGMENT)).astype(np.int64)
    sign = np.where(draws[:, 1::2] < 0.5, -1.0, 1.0)
    level = config.rand_augment_magnitude / _RAND_AUGMENT_BINS
    _, base, reach, signed = (np.array(c)[ops] for c in zip(*_RAND_AUGMENT, strict=True))
    return {"rand_op": ops, "rand_magnitude": base + reach * level * np.where(signed, sign, 1.0)}


def apply_augment(crops: Tensor, extra: dict[str, np.ndarray]) -> Tensor:
    """Apply the parameters of `extra` (n, ...) to crops uint8 (n, 3, H, W), in place and in a fixed
    order: color jitter, lighting, gray, blur, RandAugment, erasing; returns the crops."""
    if not extra:
        return crops
    _require_replayable(extra)
    for i in range(len(crops)):
        crops[i] = _apply_to_one(crops[i], {name: values[i] for name, values in extra.items()})
    return crops


def _require_replayable(extra: dict[str, np.ndarray]) -> None:
    """Refuse parameters that `sample_augment` never draws; a store may hold any numbers.

    Raises:
        FormatError: names the parameters.
    """
    for name, (low, high, axes) in _RANGES.items():
        if name in extra:
            values = np.asarray(extra[name])
            # Written so that a NaN fails too.
            sound = values.ndim == 1 + axes and bool(((values >= low) & (values <= high)).all())
            if not sound or (axes and values.shape[1] != _LENGTHS.get(name, values.shape[1])):
                raise FormatError(f"crop records have impossible parameters of {name}")
    if "jitter" in extra:
        jitter = np.asarray(extra["jitter"])
        if (jitter[:, :3] < 0).any() or (jitter[:, 3] > 0.5).any():  # hue is the last
            raise FormatError("crop records have impossible parameters of jitter")
    if extra.keys() & {"rand_op", "rand_magnitude"}:
        _require_operations(extra)


def _require_operations(extra: dict[str, np.ndarray]) -> None:
    """Refuse operations of RandAugment beyond their ranges."""
    ops, magnitude = extra.get("rand_op"), extra.get("rand_magnitude")
    sound = (
        ops is not None
        and magnitude is not None
        and ops.shape == magnitude.shape
        and bool(np.isfinite(magnitude).all())
        and _are_within(ops, magnitude)
    )
    if not sound:
        raise FormatError("crop records have impossible parameters of rand_magnitude")


def _are_within(ops: np.ndarray, magnitude: np.ndarray) -> bool:
    """Whether these finite magnitudes lie in the ranges of their operations."""
    _, base, reach, signed = (np.array(c)[ops] for c in zip(*_RAND_AUGMENT, strict=True))
    steps = (magnitude - base) / np.where(reach == 0, np.inf, reach)  # 0: it takes none
    return bool(((steps >= -1.0 * signed - _ROUNDING) & (steps <= 1.0 + _ROUNDING)).all())


def _apply_to_one(crop: Tensor, extra: dict[str, np.ndarray]) -> Tensor:
    if "jitter" in extra:
        crop = _jitter(crop, extra["jitter"].tolist(), int(extra["jitter_order"]))
    if "lighting" in extra:
        crop = _light(crop, extra["lighting"].tolist())
    if extra.get("gray"):
        crop = TF.rgb_to_grayscale(crop, num_output_channels=3)
    if "blur" in extra and extra["blur"] > 0:
        crop = _blur(crop, float(extra["blur"]))
    if "rand_op" in extra:
        for op, magnitude in zip(extra["rand_op"], extra["rand_magnitude"], strict=True):
            crop = _RAND_AUGMENT[op][0](crop, float(magnitude))
    if "erase" in extra:
        crop = _erase(crop, extra["erase"].tolist())
    return crop


def _jitter(crop: Tensor, factors: list[float], order: int) -> Tensor:
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for which in _ORDERS[order]:
        if factors[which] != (0.0 if which == 3 else 1.0):
            crop = adjust[which](crop, factors[which])
    return crop


def _light(crop: Tensor, added: list[float]) -> Tensor:
    shift = torch.tensor(added)[:, None, None] * 255.0
    return (crop + shift).round_().clamp_(0.0, 255.0).to(torch.uint8)


def _blur(crop: Tensor, sigma: float) -> Tensor:
    sigma *= crop.shape[-1] / _BLUR_SIDE
    kernel = min(2 * math.ceil(2 * sigma) + 1, 2 * ((min(crop.shape[-2:]) - 1) // 2) + 1)
    blurred: Tensor = TF.gaussian_blur(crop, [kernel, kernel], [sigma, sigma])
    return blurred


def _erase(crop: Tensor, fractions: list[float]) -> Tensor:
    height, width = crop.shape[-2:]
    top, left = round(fractions[0] * height), round(fractions[1] * width)
    bottom, right = top + round(fractions[2] * height), left + round(fractions[3] * width)
    crop = crop.clone()
    crop[:, top:bottom, left:right] = _ERASED
    return crop


def _between(limits: tuple[float, float], draws: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * draws


def _affine(
    crop: Tensor,
    *,
    angle: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Nearest-neighbor affine map; translations are fractions of the sides, angles degrees."""
    height, width = crop.shape[-2:]
    pixels = [round(translate[0] * width), round(translate[1] * height)]
    moved: Tensor = TF.affine(crop, angle=angle, translate=pixels, scale=1.0, shear=list(shear))
    return moved


# Operations of RandAugment with the space of torchvision. The parameter of each is
# base + reach * magnitude / 30, where the reach has a random sign or not.
_RAND_AUGMENT: list[tuple[Callable[[Tensor, float], Tensor], float, float, bool]] = [
    (lambda crop, _: crop, 0.0, 0.0, False),
    (lambda crop, m: _affine(crop, shear=(math.degrees(math.atan(m)), 0.0)), 0.0, 0.3, True),
    (lambda crop, m: _affine(crop, shear=(0.0, math.degrees(math.atan(m)))), 0.0, 0.3, True),
    (lambda crop, m: _affine(crop, translate=(m, 0.0)), 0.0, 150.0 / 331.0, True),
    (lambda crop, m: _affine(crop, translate=(0.0, m)), 0.0, 150.0 / 331.0, True),
    (lambda crop, m: _affine(crop, angle=m), 0.0, 30.0, True),
    (lambda crop, m: TF.adjust_brightness(crop, m), 1.0, 0.9, True),
    (lambda crop, m: TF.adjust_saturation(crop, m), 1.0, 0.9, True),
    (lambda crop, m: TF.adjust_contrast(crop, m), 1.0, 0.9, True),
    (lambda crop, m: TF.adjust_sharpness(crop, m), 1.0, 0.9, True),
    (lambda crop, m: TF.posterize(crop, round(m)), 8.0, -4.0, False),
    (lambda crop, m: TF.solarize(crop, m), 255.0, -255.0, False),
    (lambda crop, _: TF.autocontrast(crop), 0.0, 0.0, False),
    (lambda crop, _: TF.equalize(crop), 0.0, 0.0, False),
]

# Of each stored parameter: smallest and largest value, and axes besides that of the crops.
_RANGES: dict[str, tuple[float, float, int]] = {
    "jitter": (-0.5, 1e6, 1),
    "jitter_order": (0, len(_ORDERS) - 1, 0),
    "lighting": (-1e6, 1e6, 1),
    "gray": (0, 255, 0),
    "blur": (0.0, 1e6, 0),
    "rand_op": (0, len(_RAND_AUGMENT) - 1, 1),
    "erase": (0.0, 1.0 + _ROUNDING, 1),
}
_LENGTHS = {"jitter": 4, "lighting": 3, "erase": 4}
