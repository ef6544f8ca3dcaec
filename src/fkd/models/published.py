"""The layouts of the checkpoints that authors of papers have published, for their own networks."""

from collections.abc import Mapping

from torch import Tensor, nn

from fkd.models.architectures import embedders, reactnet
from fkd.models.architectures.embedders import Embedder
from fkd.models.architectures.reactnet import ReActNet

_BACKBONE, _HEAD = "backbone.", "head."


def rename_published(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with our names, from that of any authors' checkpoint; others stay as they are.

    What MoCo V2 and SwAV have trained becomes the backbone and the head of an `Embedder`, of which
    any other network gets the backbone alone.

    Args:
        state: the weights, without the prefixes that all their names have.
        model: the network that they are for.
    """
    renamed = embedders.rename_published(state)
    if not isinstance(model, Embedder) and _is_of_embedder(renamed):
        inside = [name for name in renamed if name.startswith(_BACKBONE)]
        renamed = {name.removeprefix(_BACKBONE): renamed[name] for name in inside}
    return reactnet.rename_published(renamed) if isinstance(model, ReActNet) else renamed


def _is_of_embedder(state: Mapping[str, Tensor]) -> bool:
    """Whether all names are those of a backbone and of a head on it, and there are both."""
    first = {name.partition(".")[0] + "." for name in state}
    return first == {_BACKBONE, _HEAD}
