"""The pooled features of a network: what its classifier, or its projection head, is applied to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fkd.models.architectures.embedders import Embedder
from fkd.models.headless import last_linear

Network = Callable[[Tensor], Tensor]


class PooledFeatures(nn.Module):
    """Images (B, 3, S, S) to pooled features (B, D) of a network, whose weights it shares.

    Args:
        model: a network of timm or torchvision, with a classifier or without one, or an `Embedder`.
        name: what messages call it.

    Raises:
        ConfigError: it is not known what the features of such a network are.
    """

    def __init__(self, model: nn.Module, name: str = "the model") -> None:
        super().__init__()
        self.model = model
        self._name = name
        _features_of(model, name)  # refuses what has none

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D); maps that a head would still have to pool are pooled by their mean."""
        # Looked up at every call: a copy of this module must use the network of its own.
        features = _features_of(self.model, self._name)(images)
        return features.mean((2, 3)) if features.ndim == 4 else features

    @torch.no_grad()
    def count(self, input_size: int) -> int:
        """D, by a forward pass of one gray image."""
        training = self.model.training
        parameter = next(self.model.parameters())
        image = torch.zeros(1, 3, input_size, input_size, device=parameter.device)
        width = self.eval()(image.to(parameter.dtype)).shape[1]
        self.train(training)
        return int(width)


def _features_of(model: Any, name: str) -> Network:
    if isinstance(model, Embedder):
        return model.backbone
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)
    if getattr(model, "num_classes", None) == 0:
        return model  # type: ignore[no-any-return]
    return _before(model, last_linear(model, name))


def _before(model: nn.Module, layer: str) -> Network:
    """What goes into a layer: torchvision has no name for the features."""
    head = model.get_submodule(layer)

    def features(images: Tensor) -> Tensor:
        kept: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
        try:
            model(images)
        finally:
            hook.remove()
        return kept[-1]

    return features
