"""MixUp and CutMix: a crop blended with a partner, and labels that follow the pixels.

    MixUp   x <- share x + (1 - share) x_partner, in whole gray levels
    CutMix  a box of x is pasted over with the same box of x_partner; share = 1 - box area / area
    both    q <- share q + (1 - share) q_partner        (never densified)

with lambda ~ Beta(alpha, alpha), one draw per step, partners by a random permutation of the crops,
or, with SelfMix, of the crops of each image.

What a mixed crop is trained against depends on who gives the label. Stored labels and true classes
are mixed like the pixels; an online teacher sees the mixed image itself.

Source: MixUp (Zhang et al. 2018), CutMix (Yun et al. 2019) as the authors of FKD apply them;
FunMatch (Beyer et al. 2022) for the teacher that sees the mixture; SelfMix of FerKD (Shen 2023).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkd.checks import require_at_least, require_in
from fkd.labels.targets import SoftTargets, mix_targets
from fkd.randomness import Purpose, generator


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """When and how crops are mixed; by default never.

    Attributes:
        mixup_alpha: alpha of MixUp's Beta distribution; 0 is off, the paper uses 0.8.
        cutmix_alpha: alpha of CutMix's Beta distribution; 0 is off, the paper uses 1.0.
        prob: share of the steps that mix.
        mixup_share: share of the mixed steps that use MixUp where both are on. (The official
            switch_prob; timm's option of that name is the share of CutMix.)
        within_image: mix crops of the same image only (SelfMix); needs crops_per_image above 1.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    prob: float = 1.0
    mixup_share: float = 0.5
    within_image: bool = False

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            require_at_least(0, f"mixing.{name}", getattr(self, name))
        for name in ("prob", "mixup_share"):
            require_in("[0, 1]", f"mixing.{name}", getattr(self, name))

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
        box: top, left, height, width of the pasted box, pixels of `size`; None for MixUp.
        size: height and width of the crops that the box was drawn for.
    """

    partner: Tensor
    share: float
    box: tuple[int, int, int, int] | None
    size: tuple[int, int]


def sample_mix(
    config: MixingConfig,
    seed: int,
    step: int,
    num_crops: int,
    size: tuple[int, int],
    crops_per_image: int = 1,
) -> Mix | None:
    """What step `step` mixes, a pure function of the arguments; None where it does not mix.

    Args:
        num_crops: B; only the partners depend on it.
        size: height and width of a crop, pixels.
        crops_per_image: m; the crops of an image follow each other.
    """
    if not config.enabled:
        return None
    draw = generator(seed, Purpose.MIX, step)
    mixes, switches, center_y, center_x = draw.random(4)
    if mixes >= config.prob:
        return None
    use_mixup = config.cutmix_alpha == 0 or (
        config.mixup_alpha > 0 and switches < config.mixup_share
    )
    alpha = config.mixup_alpha if use_mixup else config.cutmix_alpha
    kept = float(draw.beta(alpha, alpha))
    if config.within_image:
        positions = np.arange(num_crops).reshape(-1, crops_per_image)
        partner = torch.from_numpy(draw.permuted(positions, axis=1).ravel())
    else:
        partner = torch.from_numpy(draw.permutation(num_crops))
    if use_mixup:
        return Mix(partner, kept, None, size)
    box = _cutmix_box(kept, (center_y, center_x), size)
    return Mix(partner, 1.0 - box[2] * box[3] / (size[0] * size[1]), box, size)


def mix_crops(mix: Mix, crops: Tensor) -> Tensor:
    """The mixed crops, uint8 (B, 3, H, W); blended pixels are rounded, halves to even.

    Crops of another size than `mix.size`, a teacher's, get the same box at their own scale.
    """
    partner = mix.partner.to(crops.device)
    if mix.box is None:
        blended = torch.lerp(crops[partner].float(), crops.float(), mix.share)
        return blended.round_().to(torch.uint8)
    top, left, bottom, right = _scaled(mix, (crops.shape[2], crops.shape[3]))
    mixed = crops.clone()
    mixed[:, :, top:bottom, left:right] = crops[partner, :, top:bottom, left:right]
    return mixed


def mix_labels(mix: Mix, targets: SoftTargets) -> SoftTargets:
    """The labels of the mixed crops, from a label of each crop."""
    device = targets.weight.device
    share = torch.full((len(targets),), mix.share, device=device)
    return mix_targets(targets, mix.partner.to(device), share)


def _scaled(mix: Mix, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the pasted box in crops of another size."""
    assert mix.box is not None
    top, left, height, width = mix.box
    y, x = (new / old for new, old in zip(size, mix.size, strict=True))
    return round(top * y), round(left * x), round((top + height) * y), round((left + width) * x)


def _cutmix_box(
    kept: float, center: tuple[float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box of sides sqrt(1 - kept) around a uniform center, clipped at the border."""
    side = np.sqrt(1.0 - kept)
    edges = []
    for position, length in zip(center, size, strict=True):
        middle, half = int(position * length), int(side * length) // 2
        edges.append((max(middle - half, 0), min(middle + half, length)))
    (top, bottom), (left, right) = edges
    return top, left, bottom - top, right - left
