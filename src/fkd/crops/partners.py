"""Mixing before labeling: which crops the teacher sees mixed, with what, and how (MixUp, CutMix).

A record may say that its crop is mixed with a crop of another image of the store: the one that has
the same number there, so a store with fewer crops keeps every pair. Each of the two is cut,
resized, flipped and augmented as its own record says, then the first is mixed with the second;
mixtures are not mixed again. The label is the teacher's for the mixture, at the teacher's size; a
student of another size replays the same mixture at its own.

Parameters of one crop, whole numbers; shares and positions are in parts of 255:

    mix_row    position of the other image in the order of the keys
    mix_share  what the crop keeps of itself inside the box; 0 for CutMix
    mix_box    top, left, bottom, right edge of the box; 0 0 255 255 for MixUp; all 0: not mixed

Edge e of a side of S pixels lies at floor(e S / 255 + 1/2). Inside the box a pixel x of the crop
and y of its partner become round((share x + (255 - share) y) / 255), which is never halfway.

Source: MixUp (Zhang et al. 2018), CutMix (Yun et al. 2019); mixtures labeled by the teacher as in
SRe2L (Yin et al. 2023) and dataset reinforcement (Faghri et al. 2023), but by crop, not by batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.errors import ConfigError
from fkd.randomness import Purpose, stream_generators, uniforms

COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "mix_row": ("<u4", ()),
    "mix_share": ("|u1", ()),
    "mix_box": ("|u1", (4,)),
}
"""Name to (dtype, shape per crop)."""

_WHOLE = 255


@dataclass(frozen=True, kw_only=True)
class StoredMixingConfig:
    """Which crops are mixed before the teacher sees them; by default none.

    Attributes:
        mixup_alpha: alpha of MixUp's Beta distribution; 0 is off, usual is 0.8.
        cutmix_alpha: alpha of CutMix's Beta distribution; 0 is off, usual is 1.0.
        prob: share of the crops that are mixed.
        mixup_share: share of the mixed crops that use MixUp where both are on.
        partners: other images that the crops of an image are mixed with. Training decodes up to
            that many further images for each image: more give more varied pairs, and load slower
            (110 kB JPEGs, m = 4, all crops mixed: 1, 2, 4 and 8 partners take 2.3, 2.7, 3.1 and
            3.4 times the CPU time of unmixed crops).
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    prob: float = 1.0
    mixup_share: float = 0.5
    partners: int = 1

    def __post_init__(self) -> None:
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0:
            raise ConfigError(
                "stored_mixing.mixup_alpha and stored_mixing.cutmix_alpha must be >= 0 (0 is off), "
                f"got {self.mixup_alpha} and {self.cutmix_alpha}"
            )
        for name in ("prob", "mixup_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                found = getattr(self, name)
                raise ConfigError(f"stored_mixing.{name} must lie in [0, 1], got {found}")
        if self.partners < 1:
            raise ConfigError(f"stored_mixing.partners must be at least 1, got {self.partners}")


# Functions, not properties: the parser of the command line takes public properties for subcommands.


def mixes(config: StoredMixingConfig) -> bool:
    """Whether any crop is mixed."""
    return config.prob > 0 and (config.mixup_alpha > 0 or config.cutmix_alpha > 0)


def mix_columns(config: StoredMixingConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to (dtype, shape per crop) of the parameters that these settings draw."""
    return COLUMNS if mixes(config) else {}


@dataclass(frozen=True)
class Partner:
    """A mixing partner: another image, and its crops with the numbers of the crops to be mixed.

    Attributes:
        image: uint8 (3, H, W).
        records: its records, crop for crop those of the same numbers.
    """

    image: Tensor
    records: CropRecords


Partners = Mapping[int, Partner]
"""By position in the order of the keys."""


def sample_mixes(
    config: StoredMixingConfig, stream: int, numbers: np.ndarray, row: int, num_images: int
) -> dict[str, np.ndarray]:
    """Parameters of the crops `numbers` (n,) of one image, a pure function of the arguments.

    Args:
        config: how crops are mixed.
        stream: of the image, see `fkd.randomness.stream_key`.
        numbers: crop numbers.
        row: position of the image in the order of the keys.
        num_images: N, at least 2; partners are any of the N - 1 others.
    """
    if not mixes(config):
        return {}
    draws = uniforms(stream, Purpose.PARTNER, np.arange(config.partners), 1)[:, 0]
    others = np.floor(draws * (num_images - 1)).astype(np.int64)
    others += others >= row
    sampled = blank_mixes(len(numbers))
    for i, draw in enumerate(stream_generators(stream, Purpose.STORED_MIX, numbers)):
        slot, share, box = _sample_one(config, draw)
        if share < _WHOLE and box[0] < box[2] and box[1] < box[3]:
            sampled["mix_row"][i] = others[slot]
            sampled["mix_share"][i] = share
            sampled["mix_box"][i] = box
    return sampled


def blank_mixes(num_crops: int) -> dict[str, np.ndarray]:
    """Parameters of crops that are not mixed."""
    return {name: np.zeros((num_crops, *shape), dtype) for name, (dtype, shape) in COLUMNS.items()}


def _sample_one(
    config: StoredMixingConfig, draw: np.random.Generator
) -> tuple[int, int, tuple[int, ...]]:
    """Number of the partner among the image's, share and box of one crop."""
    mixed, switch, slot, *center = draw.random(5).tolist()
    partner = int(slot * config.partners)
    if mixed >= config.prob:
        return partner, _WHOLE, (0, 0, 0, 0)
    if config.cutmix_alpha == 0 or (config.mixup_alpha > 0 and switch < config.mixup_share):
        kept = draw.beta(config.mixup_alpha, config.mixup_alpha)
        return partner, round(_WHOLE * kept), (0, 0, _WHOLE, _WHOLE)
    half = np.sqrt(1.0 - draw.beta(config.cutmix_alpha, config.cutmix_alpha)) / 2
    edges = np.clip([c + step for step in (-half, half) for c in center], 0.0, 1.0)
    return partner, 0, tuple(np.rint(_WHOLE * edges).astype(int).tolist())


def mixed_crops(records: CropRecords) -> np.ndarray:
    """Which crops are mixed, bool, of the shape of the records."""
    if "mix_box" not in records.extra:
        return np.zeros(records.shape, bool)
    return np.asarray(records.extra["mix_box"].any(axis=-1))


def partner_rows(records: CropRecords) -> list[int]:
    """The distinct images that crops are mixed with, ascending."""
    mixed = mixed_crops(records)
    return np.unique(records.extra["mix_row"][mixed]).tolist() if mixed.any() else []


def without_mixes(records: CropRecords) -> CropRecords:
    """The same crops by themselves."""
    extra = {name: array for name, array in records.extra.items() if name not in COLUMNS}
    return CropRecords(records.box, records.flip, extra)


def unmix(records: CropRecords, rows: list[int]) -> CropRecords:
    """The same records, of which none is mixed with one of the images `rows`."""
    if not rows:
        return records
    lost = np.isin(records.extra["mix_row"], rows) & mixed_crops(records)
    extra = dict(records.extra)
    for name in COLUMNS:
        extra[name] = extra[name].copy()
        extra[name][lost] = 0
    return CropRecords(records.box, records.flip, extra)


def blend(crop: Tensor, partner: Tensor, share: int, box: tuple[int, ...]) -> None:
    """Mix a crop uint8 (3, H, W) with its partner, in place; see the top of this file."""
    sides = (*crop.shape[-2:], *crop.shape[-2:])
    top, left, bottom, right = (
        (2 * edge * side + _WHOLE) // (2 * _WHOLE) for edge, side in zip(box, sides, strict=True)
    )
    own, other = (pixels[:, top:bottom, left:right] for pixels in (crop, partner))
    if share == 0:
        own.copy_(other)
        return
    total = own.to(torch.int32).mul_(share).add_(other.to(torch.int32), alpha=_WHOLE - share)
    # round(total / 255) of all totals up to 255^2; dividing integers takes ten times as long.
    total.add_(128)
    own.copy_(total.add_(total >> 8).bitwise_right_shift_(8))
