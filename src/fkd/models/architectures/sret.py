"""SReT: transformers whose blocks are used twice, with attention in slices of the tokens.

Every stage holds R different blocks, each used in two loops, and after each use a small residual
network of its own, so R blocks of weights do the work of 2 R:

    block b, sliced into many groups      attention among neighbors in raster order
    non-projection unit
    block b again, in fewer groups        attention among tokens in a random order
    non-projection unit

Slicing N tokens into G groups costs N^2 / G instead of N^2. Shuffling the tokens of the second loop
lets groups exchange what they know. Three convolutions lead from the image to tokens, one leads
from stage to stage, and the mean of the last tokens is classified.

Importing this module makes the networks known to timm as `sret_t`, `sret_lt` and `sret_s`.

Source: Shen, Liu and Xing, "Sliced Recursive Transformer", ECCV 2022; students of FKD's Table 5.
Differs: the authors also shuffle in evaluation, which makes their answers random; here evaluation
has one fixed order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.helpers import to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from fkd.errors import ConfigError

_LOOPS = 2
_EPS = 1e-6  # of layer norms


@dataclass(frozen=True)
class Stage:
    """Settings of one stage.

    Attributes:
        dim: width of a token.
        blocks: R, different blocks.
        heads: of the attention.
        groups: slices of the first loop and of the second.
    """

    dim: int
    blocks: int
    heads: int
    groups: tuple[int, int]

    @property
    def depth(self) -> int:
        """Uses of blocks."""
        return _LOOPS * self.blocks


class SlicedAttention(nn.Module):
    """Self-attention inside groups of tokens.

    Args:
        dim: width of a token.
        heads: attention heads, which share the width.
        num_tokens: N, tokens of an image.
    """

    order: Tensor

    def __init__(self, dim: int, heads: int, num_tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("order", _fixed_order(num_tokens), persistent=False)

    def init_non_persistent_buffers(self) -> None:
        """Make the order anew, which no file holds; transformers asks, as timm's layers do."""
        self.order = _fixed_order(len(self.order)).to(self.order.device)

    def forward(self, tokens: Tensor, groups: int, shuffles: bool) -> Tensor:
        """Tokens (B, N, dim) to tokens; `shuffles` says whether groups are random."""
        if not shuffles or groups == 1:
            return self.proj(self._attend(tokens, groups))  # type: ignore[no-any-return]
        order = self.order
        if self.training:
            order = torch.randperm(tokens.shape[1], device=tokens.device)
        shuffled = self._attend(tokens[:, order], groups)
        return self.proj(shuffled[:, order.argsort()])  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor, groups: int) -> Tensor:
        batch, num_tokens, dim = tokens.shape
        shape = (batch * groups, num_tokens // groups, 3, self.heads, dim // self.heads)
        q, k, v = self.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(batch, num_tokens, dim)


def _fixed_order(num_tokens: int) -> Tensor:
    """A permutation of the tokens, always the same."""
    return torch.randperm(num_tokens, generator=torch.Generator().manual_seed(0), device="cpu")


class Residual(nn.Module):
    """x <- a x + b f(LN(x)) with learnt a and b, both 1 at first; f may be dropped (drop path)."""

    def __init__(self, dim: int, branch: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.branch = branch
        self.drop_path = DropPath(drop_path)
        self.keep = nn.Parameter(torch.ones(1))
        self.add = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor, *options: Any) -> Tensor:
        """Tokens (B, N, dim) to tokens; options go to the branch."""
        changed: Tensor = self.drop_path(self.branch(self.norm(tokens), *options))
        return self.keep * tokens + self.add * changed


class Block(nn.Module):
    """Attention and a multi-layer perceptron: what is used twice."""

    def __init__(self, stage: Stage, num_tokens: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        attention = SlicedAttention(stage.dim, stage.heads, num_tokens)
        self.attention = Residual(stage.dim, attention, drop_path)
        self.mlp = Residual(stage.dim, _mlp(stage.dim, mlp_ratio), drop_path)

    def forward(self, tokens: Tensor, groups: int, shuffles: bool) -> Tensor:
        """Tokens (B, N, dim) to tokens."""
        return self.mlp(self.attention(tokens, groups, shuffles))  # type: ignore[no-any-return]


class RecursiveStage(nn.Module):
    """R blocks in two loops each, a non-projection unit after every use."""

    def __init__(
        self,
        stage: Stage,
        num_tokens: int,
        mlp_ratio: float,
        unit_ratio: float,
        drop_paths: Iterable[float],
    ) -> None:
        super().__init__()
        self.groups = stage.groups
        self.blocks = nn.ModuleList(Block(stage, num_tokens, mlp_ratio, p) for p in drop_paths)
        self.units = nn.ModuleList(
            Residual(stage.dim, _mlp(stage.dim, unit_ratio)) for _ in range(stage.depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) to tokens."""
        units = iter(self.units)
        for block in self.blocks:
            for loop, groups in enumerate(self.groups):
                tokens = next(units)(block(tokens, groups, loop > 0))
        return tokens


class SReT(nn.Module):
    """The whole network.

    Args:
        stages: from the largest number of tokens to the smallest.
        mlp_ratio: width of the perceptrons in blocks, relative to the tokens'.
        unit_ratio: the same of the non-projection units.
        num_classes: outputs; 0 gives the features.
        in_chans: channels of an image.
        img_size: side of an image, pixels; the learnt positions are for this size alone.
        drop_rate: dropout before the head.
        drop_path_rate: of the last block, if it were used once; see `_drop_paths`.

    Raises:
        ConfigError: images are not square, or the tokens of a stage cannot be sliced into its
            groups.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        mlp_ratio: float,
        unit_ratio: float,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        side = _side(img_size)
        # After 3, 4, ... convolutions of stride 2, each of which rounds up.
        sides = [-(-side // 2 ** (3 + number)) for number in range(len(stages))]
        _check_slices(stages, sides, side)
        first, last = stages[0].dim, stages[-1].dim
        self.num_features = self.head_hidden_size = last
        self.stem = nn.Sequential(
            *_down(in_chans, first // 2), *_down(first // 2, first), *_down(first, first)
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, first, sides[0], sides[0]))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        paths = _drop_paths(stages, drop_path_rate)
        self.stages = nn.ModuleList(
            RecursiveStage(stage, rows * rows, mlp_ratio, unit_ratio, own)
            for stage, rows, own in zip(stages, sides, paths, strict=True)
        )
        self.pools = nn.ModuleList(
            nn.Conv2d(wide.dim, wider.dim, 3, stride=2, padding=1, groups=wide.dim)
            for wide, wider in pairwise(stages)
        )
        self.norm = nn.LayerNorm(last, eps=_EPS)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps (B, dim, h, w) after the last stage, of images (B, 3, S, S)."""
        maps: Tensor = self.stem(images) + self.pos_embed
        for number, stage in enumerate(self.stages):
            if number:
                maps = self.pools[number - 1](maps)
            tokens = stage(maps.flatten(2).transpose(1, 2))
            maps = tokens.transpose(1, 2).reshape(maps.shape)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, C), or with `pre_logits` the features (B, dim)."""
        features: Tensor = self.head_drop(self.norm(maps.mean((2, 3))))
        return features if pre_logits else self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S)."""
        return self.forward_head(self.forward_features(images))

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, besides vectors."""
        return {"pos_embed"}

    def get_classifier(self) -> nn.Module:
        """The head, as timm asks for it."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new head, as timm asks for it."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


def _down(before: int, after: int) -> tuple[nn.Module, ...]:
    """A convolution that halves the side."""
    return nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()


def _mlp(dim: int, ratio: float) -> nn.Sequential:
    hidden = int(dim * ratio)
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


def _side(img_size: int | tuple[int, int]) -> int:
    """The side of square images; timm hands over pairs."""
    height, width = to_2tuple(img_size)
    if height != width:
        raise ConfigError(f"img_size: {width}x{height} is not square")
    return int(height)


def _check_slices(stages: tuple[Stage, ...], sides: list[int], img_size: int) -> None:
    for stage, side in zip(stages, sides, strict=True):
        if any(side * side % groups for groups in stage.groups):
            raise ConfigError(
                f"img_size: {img_size} pixels give a stage of {side}x{side} tokens, which cannot "
                f"be sliced into {stage.groups[0]} groups; use a multiple of 32, such as 224"
            )


def _drop_paths(stages: tuple[Stage, ...], rate: float) -> list[list[float]]:
    """Of each block: rate x (uses of blocks in earlier stages + its number) / all uses."""
    total, before, paths = sum(stage.depth for stage in stages), 0, []
    for stage in stages:
        paths.append([rate * (before + number) / total for number in range(stage.blocks)])
        before += stage.depth
    return paths


def _stages(width: int, heads: tuple[int, int, int]) -> tuple[Stage, ...]:
    """The three stages that all published networks have."""
    blocks, groups = (2, 5, 3), ((8, 2), (4, 1), (1, 1))
    dims = (width, 2 * width, 4 * width)
    return tuple(map(Stage, dims, blocks, heads, groups))


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "pool_size": None,
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": 1000,
            "first_conv": "stem.0",
            "classifier": "head",
        }
        for name in ("sret_t", "sret_lt", "sret_s")
    }
)


def _build(name: str, pretrained: bool, settings: dict[str, Any]) -> SReT:
    network: SReT = build_model_with_cfg(SReT, name, pretrained, **settings)
    return network


@register_model
def sret_t(pretrained: bool = False, **kwargs: Any) -> SReT:
    """SReT-T: 4.76 M parameters."""
    settings = {"stages": _stages(64, (2, 4, 8)), "mlp_ratio": 3.6, "unit_ratio": 1.0}
    return _build("sret_t", pretrained, settings | kwargs)


@register_model
def sret_lt(pretrained: bool = False, **kwargs: Any) -> SReT:
    """SReT-LT: 4.99 M parameters."""
    settings = {"stages": _stages(64, (2, 4, 8)), "mlp_ratio": 4.0, "unit_ratio": 1.0}
    return _build("sret_lt", pretrained, settings | kwargs)


@register_model
def sret_s(pretrained: bool = False, **kwargs: Any) -> SReT:
    """SReT-S: 20.9 M parameters."""
    settings = {"stages": _stages(126, (3, 6, 12)), "mlp_ratio": 3.0, "unit_ratio": 2.0}
    return _build("sret_s", pretrained, settings | {"drop_path_rate": 0.2} | kwargs)
