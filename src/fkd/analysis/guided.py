"""Guided backpropagation: the gradient of a class with respect to the input, for display.

On its way back through a ReLU with input x, a gradient g becomes

    g * 1[x > 0] * 1[g > 0]

(Springenberg et al., "Striving for simplicity", 2015). Every ReLU and ReLU6 of a network is found
while it runs, whether it is a module, one module that is used several times, a call of a function
or of a method, in place or not; neither the network nor its gradients outside change.

Differs from captum's GuidedBackprop, which sees modules of type ReLU alone and drops what is
negative of the *whole* gradient at the input of a ReLU, also where a shortcut uses that input, too.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PARAMETERS: dict[Any, tuple[str, ...]] = {
    F.relu: ("input", "inplace"),
    F.relu6: ("input", "inplace"),
    F.hardtanh: ("input", "min_val", "max_val", "inplace"),
    torch.relu: ("input",),
    torch.relu_: ("input",),
    Tensor.relu: ("input",),
    Tensor.relu_: ("input",),
}
"""The functions that may be a ReLU, with their parameters in order."""

_IN_PLACE = (torch.relu_, Tensor.relu_)
_OTHERS = frozenset(
    {
        *("CELU", "ELU", "GELU", "GELUTanh", "HardMish", "HardMishMe", "HardSwish", "HardSwishMe"),
        *("Hardswish", "LeakyReLU", "Mish", "MishMe", "PReLU", "QuickGELU", "SELU", "SiLU"),
        *("Softplus", "Swish", "SwishMe", "Tanh"),
    }
)
"""Classes of modules that are activations other than ReLU; gates, such as sigmoids, are none."""


def guided_gradient(
    network: Callable[[Tensor], Tensor], images: Tensor, classes: Tensor
) -> Tensor | None:
    """Guided backpropagation of one class of each image; None for a network without any ReLU.

    Args:
        network: images (B, 3, S, S) to logits (B, C), in evaluation mode.
        images: normalized.
        classes: int64 (B,).

    Returns:
        float32 (B, 3, S, S), with respect to the normalized images.
    """
    with torch.enable_grad(), _GuidedReLUs() as relus:
        pixels = images.detach().clone().requires_grad_()
        logits = network(pixels.clone())  # the first layer may work in place
        chosen = logits.gather(1, classes[:, None]).sum()
    if relus.count == 0:
        return None
    (gradient,) = torch.autograd.grad(chosen, pixels)
    return gradient.float()


def other_activations(modules: Iterable[nn.Module]) -> list[str]:
    """The activations among modules that are no ReLU, by the names of their classes, sorted."""
    return sorted({type(module).__name__ for module in modules} & _OTHERS)


class _GuidedReLUs(TorchFunctionMode):
    """While it is entered, ReLUs keep their outputs and have the guided backward pass.

    Attributes:
        count: ReLUs that have run on inputs with gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _find_relu(func, args, kwargs or {})
        if found is None or not (torch.is_grad_enabled() and found.input.requires_grad):
            return func(*args, **(kwargs or {}))
        self.count += 1
        output = _GuidedReLU.apply(found.input, found.top)
        return found.input.copy_(output) if found.in_place else output


class _ReLU(NamedTuple):
    """A call of a ReLU; `top` is its largest output, None without a bound."""

    input: Tensor
    top: float | None
    in_place: bool


def _find_relu(func: Any, args: Any, kwargs: Any) -> _ReLU | None:
    """What a call means, None if it is of another function."""
    if func not in _PARAMETERS:
        return None
    given = {**dict(zip(_PARAMETERS[func], args, strict=False)), **kwargs}
    in_place = func in _IN_PLACE or bool(given.get("inplace", False))
    tensor = given["input"]
    if func is F.hardtanh:
        is_relu = given.get("min_val", -1.0) == 0.0
        return _ReLU(tensor, float(given.get("max_val", 1.0)), in_place) if is_relu else None
    return _ReLU(tensor, 6.0 if func is F.relu6 else None, in_place)


class _GuidedReLU(torch.autograd.Function):
    """ReLU, or with a bound ReLU6, whose gradient passes where it and the input are positive."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, top: float | None) -> Tensor:
        """min(max(x, 0), top)."""
        output = tensor.clamp(0.0, top)
        ctx.save_for_backward(output)
        ctx.top = top
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Guided; at a bound, as everywhere, nothing passes."""
        (output,), (gradient,) = ctx.saved_tensors, gradients
        passes = (output > 0) & (gradient > 0)
        if ctx.top is not None:
            passes &= output < ctx.top
        return gradient * passes, None
