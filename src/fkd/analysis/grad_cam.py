"""Grad-CAM: where in an image a network finds a class (Figs. 6 and 7 of the paper).

With the activations A_k of a layer and the logit z_c of a class,

    map = ReLU(sum_k alpha_k A_k),   alpha_k = mean over positions of dz_c / dA_k

(Selvaraju et al., "Grad-CAM", 2017), by captum. The layer is the last one with positions, which is
found by running the network: feature maps of a convolutional network in either order of the axes,
or the tokens of a transformer, as the grid that its patches form.
"""

import copy
import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fkd.analysis.guided import guided_gradient, other_activations
from fkd.errors import ConfigError

_MOST_PREFIX = 8  # tokens before those of patches: of the class, of distillation, registers
_LISTED = 10
_INSIDE = ("attention", "attn", "mlp")  # in the names of classes whose parts are no positions
_LEFT_OUT = ("pool", "dropout", "droppath", "identity", "flatten")  # change no activation


class Grid(NamedTuple):
    """How the output of a layer is a grid of positions.

    Attributes:
        order: of its axes; N are the rows of the grid one after the other.
        side: positions in a row and in a column.
        prefix: tokens before those of the grid.
    """

    order: Literal["BCHW", "BHWC", "BNC"]
    side: int
    prefix: int = 0

    def unfold(self, output: Tensor) -> Tensor:
        """The activations (B, C, H, W) in an output of the layer."""
        if self.order == "BCHW":
            return output
        if self.order == "BHWC":
            return output.permute(0, 3, 1, 2)
        channels = output[:, self.prefix :].transpose(1, 2)
        return channels.reshape(*channels.shape[:2], self.side, self.side)

    def fold(self, maps: Tensor, output: Tensor) -> Tensor:
        """The output with these activations (B, C, H, W) in it."""
        if self.order == "BCHW":
            return maps
        if self.order == "BHWC":
            return maps.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], maps.flatten(2).transpose(1, 2)], 1)


@dataclass(frozen=True)
class Layer:
    """A layer of a network whose output is a grid.

    Attributes:
        name: of the module.
        grid: how.
    """

    name: str
    grid: Grid


class GradCam:
    """Maps of one network, which is left as it is: hooks and modes are on a copy.

    Attributes:
        layer: whose activations are weighted.
        others: activations in the network that are no ReLU, by the names of their classes.

    Args:
        model: a classifier, in any mode.
        example: a normalized image (1, 3, S, S).
        layer: name of a module; None for the last layer with positions that the logits depend on.
        name: what messages call the network.

    Raises:
        ConfigError: captum is not installed; there is no such layer, or it has no positions.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, layer: str | None = None, name: str = "the model"
    ) -> None:
        require_captum()
        self._network = _copy(model)
        self.layer = find_layer(self._network, example, layer, name)
        self.others = other_activations(self._network.modules())

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 (B, C) of normalized images (B, 3, S, S)."""
        output: Tensor = self._network(images)
        return output.float()

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Grad-CAM of one class (B,) of each image, float32 (B, H, W), at least 0."""
        from captum.attr import LayerGradCam

        def network(pixels: Tensor) -> Tensor:
            logits: Tensor = self._network(pixels.clone())  # may be changed in place
            return logits

        with _tapped(self._network, self.layer) as tap:
            cam: Tensor = LayerGradCam(network, tap).attribute(
                images.detach().requires_grad_(), classes, relu_attributions=True
            )
        return cam[:, 0].detach().float()

    def guided(self, images: Tensor, classes: Tensor) -> Tensor | None:
        """Guided backpropagation, float32 (B, 3, S, S); None for a network without any ReLU."""
        return guided_gradient(self._network, images, classes)


def normalize_maps(maps: Tensor) -> Tensor:
    """Each map (B, H, W) with its least value at 0 and its largest at 1; all 0 if it has one value.

    Example:
        >>> normalize_maps(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]))
        tensor([[[0.0000, 0.2500],
                 [0.5000, 1.0000]]])
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (maps - low) / torch.where(spread > 0, spread, 1.0), 0.0)


def enlarge_maps(maps: Tensor, side: int) -> Tensor:
    """Maps (B, h, w) at the size of the input, bilinear, (B, side, side)."""
    sized = nn.functional.interpolate(maps[:, None], (side, side), mode="bilinear")
    return sized[:, 0]


def require_captum() -> None:
    """Say so before anything is computed.

    Raises:
        ConfigError: captum is not installed.
    """
    try:
        import captum  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Grad-CAM needs captum; install it with: pip install 'fkd[analysis]'"
        ) from error


def find_layer(network: nn.Module, example: Tensor, wanted: str | None, name: str) -> Layer:
    """The layer of that name; or the last one whose activations change the largest logit.

    In transformers that classify by a token of its own, the tokens of patches have no influence
    after the last attention, so the layer is the norm before it.

    Raises:
        ConfigError: there is none; lists some that there are.
    """
    runs, logits = _run(network, example)
    layers = {run.layer.name: run.layer for run in runs}
    if wanted is not None:
        return _named(network, layers, wanted, name)
    outputs = [run.output for run in runs]
    if outputs:
        gradients = torch.autograd.grad(logits.max(), outputs, allow_unused=True)
        for run, gradient in zip(reversed(runs), reversed(gradients), strict=True):
            if gradient is not None and bool(run.layer.grid.unfold(gradient).any()):
                return run.layer
    raise ConfigError(
        f"{name} has no layer whose output is a grid of positions that its logits depend on; "
        "give another model, or larger crops (--input_size)"
    )


class _Run(NamedTuple):
    """A layer that ran, and what it gave."""

    layer: Layer
    output: Tensor


def _run(network: nn.Module, example: Tensor) -> tuple[list[_Run], Tensor]:
    """All layers with positions in the order in which they ended, and the logits (1, C)."""
    runs: list[_Run] = []
    calls: Counter[str] = Counter()

    def hook(path: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[path] += 1
            grid = _grid_of(output, network, len(example))
            if grid is not None:
                runs.append(_Run(Layer(path, grid), output))

        return record

    modules = _modules_with_positions(network)
    handles = [module.register_forward_hook(hook(path)) for path, module in modules.items()]
    try:
        with torch.enable_grad():
            logits = network(example.detach().clone().requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    return [run for run in runs if calls[run.layer.name] == 1], logits


def _modules_with_positions(network: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, without those that pool or pass on, and without the parts of attentions."""
    inside = tuple(
        f"{path}."
        for path, module in network.named_modules()
        if path and any(word in type(module).__name__.lower() for word in _INSIDE)
    )
    return {
        path: module
        for path, module in network.named_modules()
        if path
        and not path.startswith(inside)
        and not any(word in type(module).__name__.lower() for word in _LEFT_OUT)
    }


def _grid_of(output: Any, network: Any, batch_size: int) -> Grid | None:
    """How an output is a grid of a square image; None if it is not."""
    if not isinstance(output, Tensor) or not output.requires_grad or len(output) != batch_size:
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        if second == third and second > 1:
            return Grid("BCHW", second)
        return Grid("BHWC", first) if first == second and first > 1 else None
    if output.ndim != 3:
        return None
    tokens = output.shape[1]
    own = getattr(network, "num_prefix_tokens", None)
    own = own if isinstance(own, int) else 0
    for prefix in (own, *range(_MOST_PREFIX + 1)):  # some add the class token in their last blocks
        side = math.isqrt(max(tokens - prefix, 0))
        if side > 1 and side * side == tokens - prefix:
            return Grid("BNC", side, prefix)
    return None


def _named(network: nn.Module, layers: Mapping[str, Layer], wanted: str, name: str) -> Layer:
    if wanted in layers:
        return layers[wanted]
    known = dict(network.named_modules())
    close = difflib.get_close_matches(wanted, layers, n=1, cutoff=0.6)
    if wanted in known and wanted:
        rule = (
            f"layer: the output of {wanted} of {name} is no grid of positions of one forward pass"
        )
    else:
        rule = f"layer: {name} has no layer {wanted!r}"
        rule += f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{rule}; use one such as {', '.join(_examples(layers))}")


def _examples(layers: Mapping[str, Layer]) -> list[str]:
    """The last layers of the least depth at which there are several."""
    for depth in range(4):
        shallow = [name for name in layers if name.count(".") <= depth]
        if len(shallow) >= 4:
            break
    return shallow[-_LISTED:]


def _copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the weights, which nothing here changes.

    Its weights take no gradients, so what does depends on the image.
    """
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        shared[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
    return copy.deepcopy(model, shared).eval()


class _Tap(nn.Module):
    """Passes activations on; what captum takes for the layer.

    A layer itself may give tokens, and the network may go on to change its output in place.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """The same."""
        return maps.clone()


@contextmanager
def _tapped(network: nn.Module, layer: Layer) -> Iterator[_Tap]:
    """The network with its layer's activations going through a module of their own."""
    tap = _Tap()

    def through(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return layer.grid.fold(tap(layer.grid.unfold(output)).clone(), output)

    handle = network.get_submodule(layer.name).register_forward_hook(through)
    try:
        yield tap
    finally:
        handle.remove()
