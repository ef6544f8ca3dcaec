"""Batch normalization folded into the convolution before it: one pass over memory less a layer.

With running mean m and variance v, a batch norm of weight g and bias b after a convolution of
weights W and bias a computes

    g (W x + a - m) / sqrt(v + eps) + b  =  (s W) x + (s (a - m) + b),   s = g / sqrt(v + eps),

so the network computes the same function with other roundings. Which convolution feeds which norm
is observed in a forward pass, and the output is compared with that of the original network:
a network that is built in an unforeseen way is left as it was.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

# Exactly these: a subclass may do something else with its weights.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)
_LARGEST_CHANGE = 1e-4  # of the output's norm; rounding alone changes real networks by 1e-6


def fold_batch_norms(model: nn.Module, example: Tensor) -> int:
    """Fold every batch norm that directly follows a convolution, in place; returns their number.

    0 also means that the output of the folded network differed, and folding was undone.

    Args:
        model: in evaluation mode, its weights without gradients.
        example: an input.
    """
    observer = _Observer()
    with torch.no_grad(), _attached(observer, model):
        before = model(example)
    pairs = observer.pairs()
    if not pairs or not isinstance(before, Tensor):
        return 0
    places = _places(model)
    weights = [(conv.weight, conv.bias) for conv, _ in pairs]
    for conv, norm in pairs:
        conv.weight, conv.bias = _folded(conv, norm)
        _put(places[norm], norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity().eval())
    with torch.no_grad():
        change = torch.linalg.vector_norm(model(example) - before)
    if bool(change <= _LARGEST_CHANGE * torch.linalg.vector_norm(before)):  # False for NaN
        return len(pairs)
    for (conv, norm), (weight, bias) in zip(pairs, weights, strict=True):
        conv.weight, conv.bias = weight, bias
        _put(places[norm], norm)
    return 0


def count_batch_norms(model: nn.Module) -> int:
    """Batch norms of a network that are not folded."""
    return sum(type(module) in _NORMS for module in model.modules())


class _Observer:
    """Sees in a forward pass how often a module is called, and which convolution feeds a norm."""

    def __init__(self) -> None:
        self._calls: Counter[nn.Module] = Counter()
        self._last: tuple[nn.Module, Tensor, int] | None = None  # only one: outputs are large
        self._fed: list[tuple[nn.Module, nn.Module]] = []

    def convolved(self, conv: nn.Module, args: Any, output: Tensor) -> None:
        """After a convolution."""
        self._calls[conv] += 1
        self._last = conv, output, output._version

    def normalized(self, norm: nn.Module, args: Any, output: Tensor) -> None:
        """After a norm."""
        self._calls[norm] += 1
        if self._last is None:
            return
        conv, convolved, version = self._last
        # A higher version: something was done in place in between.
        if args and args[0] is convolved and convolved._version == version:
            self._fed.append((conv, norm))

    def pairs(self) -> list[tuple[Any, Any]]:
        """Convolutions and the norms they feed, where both were called just once."""
        return [(c, n) for c, n in self._fed if self._calls[c] == self._calls[n] == 1]


@contextmanager
def _attached(observer: _Observer, model: nn.Module) -> Iterator[None]:
    handles = []
    for module in model.modules():
        if type(module) in _CONVOLUTIONS and not module._forward_pre_hooks:  # e.g. weight_norm
            handles.append(module.register_forward_hook(observer.convolved))
        elif type(module) in _NORMS and _is_foldable(module):
            handles.append(module.register_forward_hook(observer.normalized))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_foldable(norm: Any) -> bool:
    """Whether it normalizes by fixed statistics and does nothing else that would be lost."""
    plain = not isinstance(norm, BatchNormAct2d) or isinstance(norm.drop, nn.Identity)
    return plain and norm.running_mean is not None


def _folded(conv: Any, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of the convolution that does both; in float64, rounded once."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale *= norm.weight.double()
    offset = -norm.running_mean.double() if conv.bias is None else conv.bias - norm.running_mean
    bias = scale * offset
    if norm.bias is not None:
        bias += norm.bias
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    return (
        nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False),
        nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False),
    )


def _places(model: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """Where each module hangs: its parents, and its name there."""
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = defaultdict(list)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                places[child].append((parent, name))
    return places


def _put(places: list[tuple[nn.Module, str]], module: nn.Module) -> None:
    for parent, name in places:
        setattr(parent, name, module)
