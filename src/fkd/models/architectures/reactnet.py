"""ReActNet-A: a network of MobileNet's shape whose convolutions have binary inputs and weights.

A block has two halves, a 3x3 and a 1x1 convolution, each with a shortcut around it:

    u   = BN(conv3x3(sign(x + b1)))         binary inputs, binary weights
    y   = RPReLU(shortcut(x) + u)           the shortcut averages 2x2 where the stride is 2
    v   = BN(conv1x1(sign(y + b2))) + y     twice, side by side, where channels double
    out = RPReLU(v)

All b are learned, one per channel, and RPReLU(x) = PReLU(x + before) + after. Real numbers remain
in the stem, batch norms, biases, PReLUs and the classifier. In the first of the two steps of
training the weights of convolutions are real and their inputs binary; the second starts from there.

Importing this module makes `reactnet_a` known to timm, and `reactnet_a_step1` with real weights;
both have the same parameters.

Source: Liu et al., "ReActNet", ECCV 2020; Shen et al., "S2-BNN", CVPR 2021; FKD's Table 9.
Differs: the sign of 0 is +1, so that every input of a binary convolution is one of two values; the
authors' is 0.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
_INITIAL_WEIGHT = 0.001  # of binary convolutions: uniform in [0, this)


class _BinaryInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return grad * (2.0 - 2.0 * x.abs()).clamp_(min=0.0)


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        alpha = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
        return alpha * _sign(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        weight: Tensor = ctx.saved_tensors[0]
        return grad * (weight.abs() <= 1.0)


def binary_input(x: Tensor) -> Tensor:
    """sign(x) in {-1, +1}, with the gradient of a piecewise quadratic curve through the same ends.

        F(x)  = -1 | 2 x + x^2 | 2 x - x^2 | 1      below -1, up to 0, up to 1, above
        F'(x) =  0 | 2 + 2 x   | 2 - 2 x   | 0

    Source: ReActNet, after Bi-Real Net.
    """
    binary: Tensor = _BinaryInput.apply(x)
    return binary


def binary_weight(weight: Tensor) -> Tensor:
    """alpha sign(w) of weights (out, in, k, k), with alpha = mean |w| of each output channel.

    The gradient is that of the identity where |w| <= 1 and 0 elsewhere; alpha counts as a constant.
    Source: ReActNet.
    """
    binary: Tensor = _BinaryWeight.apply(weight)
    return binary


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


class RSign(nn.Module):
    """sign(x + bias) in {-1, +1}, with a learned bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to maps of two values."""
        return binary_input(x + self.bias)


class RPReLU(nn.Module):
    """PReLU(x + before) + after, everything learned per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.prelu = nn.PReLU(channels)
        self.after = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to maps of the same shape."""
        activated: Tensor = self.prelu(x + self.before) + self.after
        return activated


class BinaryConv2d(nn.Conv2d):
    """A convolution without bias whose weights are binary, or real in the first training step.

    Args:
        before: channels that come in.
        after: channels that go out.
        size: of the kernel, odd; the border is filled with zeros.
        stride: of the kernel.
        binary_weights: whether the weights are binary.
    """

    def __init__(
        self, before: int, after: int, size: int, stride: int = 1, binary_weights: bool = True
    ) -> None:
        super().__init__(before, after, size, stride, padding=size // 2, bias=False)
        self.binary_weights = binary_weights
        nn.init.uniform_(self.weight, 0.0, _INITIAL_WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, before, h, w) to (B, after, h / stride, w / stride)."""
        weight = binary_weight(self.weight) if self.binary_weights else self.weight
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Block(nn.Module):
    """Two binary convolutions, each with a shortcut; the channels stay or double.

    Args:
        before: channels that come in.
        after: channels that go out, as many or twice as many.
        stride: 1 or 2.
        binary_weights: whether the weights are binary.
    """

    def __init__(self, before: int, after: int, stride: int, binary_weights: bool) -> None:
        super().__init__()
        branches = after // before
        # Rounded up, as the convolution beside it does; even sides have whole windows only.
        pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.shortcut = nn.Identity() if stride == 1 else pool
        self.sign1 = RSign(before)
        self.conv1 = BinaryConv2d(before, before, 3, stride, binary_weights)
        self.norm1 = nn.BatchNorm2d(before)
        self.act1 = RPReLU(before)
        self.sign2 = RSign(before)
        self.convs2 = nn.ModuleList(
            BinaryConv2d(before, before, 1, binary_weights=binary_weights) for _ in range(branches)
        )
        self.norms2 = nn.ModuleList(nn.BatchNorm2d(before) for _ in range(branches))
        self.act2 = RPReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, before, h, w) to (B, after, h / stride, w / stride)."""
        y = self.act1(self.shortcut(x) + self.norm1(self.conv1(self.sign1(x))))
        binary = self.sign2(y)
        pairs = zip(self.convs2, self.norms2, strict=True)
        v: Tensor = self.act2(torch.cat([norm(conv(binary)) + y for conv, norm in pairs], dim=1))
        return v


class ReActNet(nn.Module):
    """ReActNet-A.

    Args:
        num_classes: C; 0 for features without a head.
        in_chans: channels of an image.
        drop_rate: dropout before the head.
        binary_weights: False in the first step of training.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        binary_weights: bool = True,
    ) -> None:
        super().__init__()
        first, last = _WIDTHS[0], _WIDTHS[-1]
        self.num_features = self.head_hidden_size = last
        conv = nn.Conv2d(in_chans, first, 3, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(first))
        self.blocks = nn.Sequential(
            *(
                Block(before, after, stride, binary_weights)
                for (before, after), stride in zip(pairwise(_WIDTHS), _STRIDES, strict=True)
            )
        )
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps (B, 1024, h, w) of images (B, 3, S, S); h = w = S / 32."""
        maps: Tensor = self.blocks(self.stem(images))
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, C), or with `pre_logits` the features (B, 1024)."""
        features: Tensor = self.head_drop(maps.mean((2, 3)))
        return features if pre_logits else self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The head, as timm asks for it."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, as timm asks for it."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


# The authors' names of the parts of a block, and ours.
_PARTS = {
    "move11.bias": "sign1.bias",
    "binary_3x3.weight": "conv1.weight",
    "bn1": "norm1",
    "move12.bias": "act1.before",
    "prelu1.weight": "act1.prelu.weight",
    "move13.bias": "act1.after",
    "move21.bias": "sign2.bias",
    "move22.bias": "act2.before",
    "prelu2.weight": "act2.prelu.weight",
    "move23.bias": "act2.after",
}
_ONE_BRANCH = {"binary_pw.weight": "convs2.0.weight", "bn2": "norms2.0"}
_TWO_BRANCHES = {
    "binary_pw_down1.weight": "convs2.0.weight",
    "binary_pw_down2.weight": "convs2.1.weight",
    "bn2_1": "norms2.0",
    "bn2_2": "norms2.1",
}


def rename_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of `ReActNet`, from that of either authors' checkpoints.

    ReActNet's own second step has flat convolution weights named `weights`; S2-BNN's blocks also
    hold convolutions that they never use. Anything else is left as it is, and so are flat weights
    that are not as many as the convolution has.
    """
    if not any(key.startswith("feature.") for key in state):
        return dict(state)
    names = {"feature.0.conv1": "stem.0", "feature.0.bn1": "stem.1", "fc": "head"}
    for number, (before, after) in enumerate(pairwise(_WIDTHS)):
        parts = _PARTS | (_ONE_BRANCH if before == after else _TWO_BRANCHES)
        names |= {
            f"feature.{number + 1}.{old}": f"blocks.{number}.{new}" for old, new in parts.items()
        }
    renamed = {}
    for key, value in state.items():
        old = key[:-1] if key.endswith(".weights") else key
        for candidate in (old, old.rpartition(".")[0]):
            if candidate in names:
                new = names[candidate] + old.removeprefix(candidate)
                renamed[new] = _shaped(new, value)
    return renamed


def _shaped(name: str, value: Tensor) -> Tensor:
    """A flat weight of a binary convolution in the shape of its kernel."""
    if value.dim() != 2 or ".conv" not in name:
        return value
    channels = _WIDTHS[int(name.split(".")[1])]
    size = 3 if ".conv1." in name else 1
    if value.numel() != channels * channels * size * size:
        return value  # of another network; the loader says what does not fit
    return value.view(channels, channels, size, size)


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": 1000,
            "first_conv": "stem.0",
            "classifier": "head",
        }
        for name in ("reactnet_a", "reactnet_a_step1")
    }
)


def _build(name: str, pretrained: bool, settings: dict[str, Any]) -> ReActNet:
    network: ReActNet = build_model_with_cfg(
        ReActNet, name, pretrained, pretrained_filter_fn=_filter, **settings
    )
    return network


def _filter(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """As timm calls it when it loads a checkpoint."""
    return rename_published(state)


@register_model
def reactnet_a(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-A: 29.3 M parameters, 87 M operations."""
    return _build("reactnet_a", pretrained, {"binary_weights": True} | kwargs)


@register_model
def reactnet_a_step1(pretrained: bool = False, **kwargs: Any) -> ReActNet:
    """ReActNet-A with binary inputs and real weights, for the first step of training."""
    return _build("reactnet_a_step1", pretrained, {"binary_weights": False} | kwargs)
