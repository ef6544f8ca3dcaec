"""MixUp and CutMix on stored labels: x and q of a crop blended with those of a partner.

    MixUp   x <- share x + (1 - share) x_partner
    CutMix  a box of x is pasted over with the same box of x_partner; share = 1 - box area / area
    both    q <- share q + (1 - share) q_partner        (never densified)

with lambda ~ Beta(alpha, alpha), one draw per step, partners by a random permutation of the crops.
The label is the mixture of two labels, not the teacher's output on the mixed picture.

Source: MixUp (Zhang et al. 2018), CutMix (Yun et al. 2019) as the authors of FKD apply them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.randomness import Purpose, generator
from fkd.targets import SoftTargets, mix_targets


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """When and how crops are mixed; the default does not mix.

    Attributes:
        mixup_alpha: alpha of MixUp's Beta distribution; 0 is off, the paper uses 0.8.
        cutmix_alpha: alpha of CutMix's Beta distribution; 0 is off, the paper uses 1.0.
        prob: share of the steps that mix.
        mixup_share: share of the mixed steps that use MixUp where both are on. (The official
            switch_prob; timm's option of that name is the share of CutMix.)
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    prob: float = 1.0
    mixup_share: float = 0.5

    def __post_init__(self) -> None:
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0:
            raise ConfigError(
                "mixing.mixup_alpha and mixing.cutmix_alpha must be >= 0 (0 is off), got "
                f"{self.mixup_alpha} and {self.cutmix_alpha}"
            )
        for name in ("prob", "mixup_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"mixing.{name} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def enabled(self) -> bool:
        """Whether any step mixes."""
        return self.prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


@dataclass(frozen=True)
class Mix:
    """What is mixed with what.

    Attributes:
        partner: int64 (B,), the crop each crop is mixed with.
        share: what each crop keeps of itself, in [0, 1].
        box: top, left, height, width of the pasted box, pixels; None for MixUp.
    """

    partner: Tensor
    share: float
    box: tuple[int, int, int, int] | None


def sample_mix(
    config: MixingConfig, seed: int, step: int, num_crops: int, size: tuple[int, int]
) -> Mix | None:
    """What step `step` mixes, a pure function of the arguments; None where it does not mix.

    Args:
        num_crops: B; only the partners depend on it.
        size: height and width of a crop, pixels.
    """
    if not config.enabled:
        return None
    draw = generator(seed, Purpose.MIX, step)
    mixes, switches, centre_y, centre_x = draw.random(4)
    if mixes >= config.prob:
        return None
    use_mixup = config.cutmix_alpha == 0 or (
        config.mixup_alpha > 0 and switches < config.mixup_share
    )
    alpha = config.mixup_alpha if use_mixup else config.cutmix_alpha
    kept = float(draw.beta(alpha, alpha))
    partner = torch.from_numpy(draw.permutation(num_crops))
    if use_mixup:
        return Mix(partner, kept, None)
    box = _cutmix_box(kept, (centre_y, centre_x), size)
    return Mix(partner, 1.0 - box[2] * box[3] / (size[0] * size[1]), box)


def apply_mix(mix: Mix, images: Tensor, targets: SoftTargets) -> tuple[Tensor, SoftTargets]:
    """Mixed images, float (B, 3, H, W), and their targets."""
    partner = mix.partner.to(images.device)
    share = torch.full((len(targets),), mix.share, device=targets.weight.device)
    mixed_targets = mix_targets(targets, partner.to(targets.weight.device), share)
    if mix.box is None:
        return images * mix.share + images[partner] * (1.0 - mix.share), mixed_targets
    top, left, height, width = mix.box
    rows, columns = slice(top, top + height), slice(left, left + width)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partner, :, rows, columns]
    return mixed, mixed_targets


def _cutmix_box(
    kept: float, centre: tuple[float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box of sides sqrt(1 - kept) around a uniform centre, clipped at the border."""
    side = np.sqrt(1.0 - kept)
    edges = []
    for place, length in zip(centre, size, strict=True):
        middle, half = int(place * length), int(side * length) // 2
        edges.append((max(middle - half, 0), min(middle + half, length)))
    (top, bottom), (left, right) = edges
    return top, left, bottom - top, right - left
