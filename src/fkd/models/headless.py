"""Networks without their classifier: its parameters by name, and its removal.

Backbones are published with a classifier and without one, and libraries build them either way.
Features need none, so what a file has of it, or lacks, says nothing of the features.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fkd.errors import ConfigError
from fkd.models.architectures.embedders import Embedder


def remove_classifier(model: nn.Module, name: str = "the model") -> None:
    """Replace the classifier, or the projection head, by nothing; `num_classes` is 0 then.

    Args:
        model: a network of timm or torchvision, or an `Embedder`.
        name: what messages call it.

    Raises:
        ConfigError: it is not known what the classifier of such a network is.
    """
    network: Any = model
    if isinstance(model, Embedder):
        network.head = nn.Identity()
    elif hasattr(network, "reset_classifier"):
        network.reset_classifier(0)
    elif getattr(network, "num_classes", None) != 0:  # timm's encoders never have one
        parent, _, child = last_linear(model, name).rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    network.num_classes = 0


def classifier_parameters(model: nn.Module) -> frozenset[str]:
    """The names in the state dict that `remove_classifier` would remove; none if it could not."""
    tensors = (*model.parameters(), *model.buffers())
    headless = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # which it shares
    try:
        remove_classifier(headless)
    except ConfigError:
        return frozenset()
    return frozenset(model.state_dict().keys() - headless.state_dict().keys())


def without_classifier(
    state: Mapping[str, Tensor], model: nn.Module, removed: frozenset[str]
) -> dict[str, Tensor]:
    """The state without the classifier, which `model` does not have.

    Args:
        state: weights by name.
        model: the network without it.
        removed: names of the parameters that it had when it was built.
    """
    expected, prefixes = model.state_dict(), _prefixes(model)
    return {
        name: value
        for name, value in state.items()
        if name in expected or not (name in removed or name.startswith(prefixes))
    }


def stored_outputs(state: Mapping[str, Tensor], model: nn.Module) -> int:
    """Outputs of a classifier that lies in `state` while `model` has none; 0 if there is none."""
    for prefix in _prefixes(model):
        weight = state.get(f"{prefix}weight")
        if weight is not None and weight.ndim > 0:
            return len(weight)
    return 0


def last_linear(model: nn.Module, name: str) -> str:
    """The name of the last linear layer, which is torchvision's classifier.

    Raises:
        ConfigError: there is none; `name` is what the message calls the network.
    """
    found: list[str] = [
        path for path, module in model.named_modules() if isinstance(module, nn.Linear)
    ]
    if not found:
        raise ConfigError(f"{name} has no linear classifier whose input could be its features")
    return found[-1]


def _prefixes(model: nn.Module) -> tuple[str, ...]:
    """How the names of the parameters of its classifier begin, whether it has one or not."""
    if isinstance(model, Embedder):
        return ("head.",)
    config: Any = getattr(model, "pretrained_cfg", None)
    names = config.get("classifier") if isinstance(config, Mapping) else None
    if not names:
        return ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
