"""What a module gives, as one tensor (B, C); and whether it gives the same for the same crops."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fkd.errors import ConfigError
from fkd.models.preprocessing import Preprocessing
from fkd.models.trial import noise

ModuleOutput = Literal["logits", "features"]
# Where the outputs of transformers, and dicts of other libraries, have what is wanted.
_MEMBERS: dict[ModuleOutput, tuple[str, ...]] = {
    "logits": ("logits",),
    "features": ("pooler_output", "image_embeds", "features", "embeddings"),
}
_ENOUGH = 10  # classes whose logits are not all between 0 and 1 by chance
_SAME = 1e-3  # of the largest output; rounding alone stays below 1e-5


class TensorOf(nn.Module):
    """A network whose outputs are objects or dicts, giving one tensor of them.

    Args:
        network: the module.
        member: the name in its outputs; None takes them as they are.
        pools: whether maps (B, C, height, width) are averaged.
    """

    def __init__(self, network: nn.Module, member: str | None, *, pools: bool) -> None:
        super().__init__()
        self.network = network
        self._member = member
        self._pools = pools

    def forward(self, images: Tensor) -> Tensor:
        """The outputs (B, C)."""
        outputs: Any = self.network(images)
        tensor: Tensor = outputs if self._member is None else _member(outputs, self._member)
        return tensor.mean((2, 3)) if self._pools and tensor.ndim == 4 else tensor


def as_tensors(
    network: nn.Module, preprocessing: Preprocessing, output: ModuleOutput, owner: str
) -> nn.Module:
    """The network itself, or around it what makes one tensor (B, C) of its outputs.

    Raises:
        ConfigError: they hold no such tensor.
    """
    pools = output == "features"
    with torch.no_grad():
        outputs = network(noise(network, preprocessing, 1))
    if isinstance(outputs, Tensor):
        return (
            TensorOf(network, None, pools=True).eval() if pools and outputs.ndim == 4 else network
        )
    return TensorOf(network, _member_of(outputs, output, owner), pools=pools).eval()


def count_outputs(
    network: nn.Module, preprocessing: Preprocessing, output: ModuleOutput, owner: str
) -> int:
    """C of the outputs (B, C), checked on two crops of noise.

    Raises:
        ConfigError: they have another shape, are probabilities, are others for the same crops, or
            depend on the other crops of a batch.
    """
    crops = noise(network, preprocessing, 2)
    with torch.no_grad():
        first, again, alone = network(crops), network(crops), network(crops[:1])
    if first.ndim != 2 or len(first) != 2 or not first.is_floating_point() or not first.shape[1]:
        raise ConfigError(
            f"{owner} gives {first.dtype} of shape {tuple(first.shape)} for 2 crops; a teacher "
            f"gives floats (2, number of {'classes' if output == 'logits' else 'features'})"
        )
    if not _are_same(first, again):
        raise ConfigError(
            f"{owner} gives other outputs when it sees the same crops again: something in it is "
            "random in evaluation mode, such as F.dropout without training=self.training"
        )
    if not _are_same(first[:1], alone):
        raise ConfigError(
            f"{owner} gives other outputs for a crop when other crops are beside it, as a batch "
            "norm without running statistics does; a label must depend on its crop alone"
        )
    if output == "logits" and _are_probabilities(first):
        raise ConfigError(
            f"{owner} gives probabilities, and a teacher gives logits, of which the softmax is "
            "taken here; leave out its last softmax"
        )
    if output == "logits" and first.shape[1] >= _ENOUGH and _are_all_between_0_and_1(first):
        raise ConfigError(
            f"{owner} gives values between 0 and 1 alone, as after a sigmoid, and a teacher gives "
            "logits; leave out its last sigmoid"
        )
    return int(first.shape[1])


def _member_of(outputs: Any, output: ModuleOutput, owner: str) -> str:
    for name in _MEMBERS[output]:
        if isinstance(_member(outputs, name), Tensor):
            return name
    if isinstance(outputs, Mapping):
        tensors = [name for name, value in outputs.items() if isinstance(value, Tensor)]
        if len(tensors) == 1:
            return str(tensors[0])
    has = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise ConfigError(
        f"{owner} gives a {type(outputs).__name__}{has}, which has no {_MEMBERS[output][0]}; wrap "
        f"it in a module whose forward returns the tensor of {output}"
    )


def _member(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return getattr(outputs, name, None)


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Whether outputs differ by rounding alone; those that are not finite are judged later."""
    largest = float(torch.cat([one, other]).nan_to_num().abs().max())
    return bool(((one - other).nan_to_num().abs() <= _SAME * largest).all())


def _are_all_between_0_and_1(outputs: Tensor) -> bool:
    """Also where a sigmoid was rounded to 0 or 1; not where all is 0, as a new classifier gives."""
    in_range = bool(((outputs >= 0) & (outputs <= 1)).all())
    return in_range and bool((outputs > 0).any())


def _are_probabilities(outputs: Tensor) -> bool:
    in_range = bool(((outputs >= 0) & (outputs <= 1)).all())
    return outputs.shape[1] > 1 and in_range and bool(((outputs.sum(1) - 1).abs() < 1e-4).all())
