"""The `config.json` beside the weights of a run: timm's, which timm and transformers read.

    architecture    the network: timm's name, or "torchvision/NAME", which only fkd reads
    num_classes     outputs; 0 where the network has no classifier
    num_features    width of what a classifier is applied to, where the network tells
    label_names     of the outputs, in their order; absent where they are no classes
    model_args      further arguments that the network is built with; absent if there are none
    pretrained_cfg  the input, in timm's words: "input_size", "mean", "std", "crop_pct", ...
    fkd             what others leave alone: "head", whether a student of embeddings has left one;
                    "multi_label", true of a student that learned each class by itself

`fkd.models.cards` reads it back.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from fkd.models.cards import OWN, ModelCard

_OF_ARCHITECTURE = ("fixed_input_size", "first_conv", "classifier")
"""What timm must know of an architecture to change its input or its classes."""


def describe_network(
    network: nn.Module, card: ModelCard, class_names: Sequence[str], *, has_head: bool = False
) -> dict[str, Any]:
    """The contents of a `config.json`, for JSON.

    Args:
        network: as it was built; of timm, torchvision or fkd.
        card: its architecture and input.
        class_names: of its outputs; none of embeddings.
        has_head: whether a head of embeddings lies beside the weights.

    Example:
        >>> from fkd.models.zoo import load_model
        >>> built = load_model("test_vit", num_classes=2, input_size=48)
        >>> card = ModelCard(built.name, 2, built.preprocessing, {"img_size": 48})
        >>> config = describe_network(built.model, card, ["cat", "dog"])
        >>> config["architecture"], config["model_args"], config["pretrained_cfg"]["input_size"]
        ('test_vit', {'img_size': 48}, [3, 48, 48])
    """
    width = getattr(network, "num_features", None)
    return {
        # Without the tag, which names weights that these no longer are.
        "architecture": card.name.partition(".")[0],
        "num_classes": card.num_classes,
        **({"num_features": width} if isinstance(width, int) else {}),
        **({"label_names": list(class_names)} if class_names else {}),
        **({"model_args": card.kwargs} if card.kwargs else {}),
        "pretrained_cfg": _pretrained_cfg(network, card),
        OWN: {"head": has_head, **({"multi_label": True} if card.multi_label else {})},
    }


def _pretrained_cfg(network: nn.Module, card: ModelCard) -> dict[str, Any]:
    known: Any = getattr(network, "pretrained_cfg", None)
    of_library = known if isinstance(known, dict) else {}
    expected = card.preprocessing
    return {
        "input_size": [3, expected.input_size, expected.input_size],
        "interpolation": expected.interpolation,
        "crop_pct": expected.crop_pct,
        "crop_mode": "center",
        "mean": list(expected.mean),
        "std": list(expected.std),
        "num_classes": card.num_classes,
        **{name: of_library[name] for name in _OF_ARCHITECTURE if name in of_library},
        "pool_size": None,  # that of the library is for its own input size
        **({"license": card.license} if card.license else {}),
    }
