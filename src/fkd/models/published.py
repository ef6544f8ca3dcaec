"""The layouts of the checkpoints that authors of papers have published, for their own networks."""

from collections.abc import Mapping

from torch import Tensor, nn

from fkd.models.architectures import embedders, reactnet
from fkd.models.architectures.reactnet import ReActNet

_BACKBONE = "backbone."


def rename_published(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with our names, from that of any authors' checkpoint; others stay as they are.

    What MoCo V2 and SwAV have trained becomes the backbone and the head of an `Embedder`, whatever
    `model` is: the backbone alone fits another network.

    Args:
        state: the weights, without the prefixes that all their names have.
        model: the network that they are for.
    """
    renamed = embedders.rename_published(state)
    if not isinstance(model, ReActNet):
        return renamed
    feature = f"{_BACKBONE}feature."
    if any(name.startswith(feature) for name in renamed):  # S2-BNN's students: a head is trained
        inside = [name for name in renamed if name.startswith(_BACKBONE)]
        renamed = {name.removeprefix(_BACKBONE): renamed[name] for name in inside}
    return reactnet.rename_published(renamed)
