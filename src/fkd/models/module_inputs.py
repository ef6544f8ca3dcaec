"""What a module expects of its input, as its library or its user says it."""

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from fkd.errors import ConfigError, reason_of
from fkd.models.cards import preprocessing_of_processor
from fkd.models.preprocessing import Preprocessing

_NEEDED = ("input_size", "mean", "std")
_DEFAULTS: dict[str, Any] = {"interpolation": "bilinear", "crop_pct": 0.875}  # torchvision's


def find_preprocessing(
    module: nn.Module, described: Any, owner: str, **given: Any
) -> Preprocessing:
    """The input that a module expects.

    Args:
        module: of timm, it says so itself (`pretrained_cfg`).
        described: weights of torchvision or their transforms, an image processor of transformers,
            a dict of timm, or None.
        owner: what messages call the module.
        given: values that are not None go before all others.

    Raises:
        ConfigError: something is missing or impossible.
    """
    given = {name: value for name, value in given.items() if value is not None}
    try:
        known = _fields_of(
            getattr(module, "pretrained_cfg", None) if described is None else described
        )
        fields = {**_DEFAULTS, **known, **given}
        missing = [name for name in _NEEDED if fields.get(name) is None]
        if not missing:
            return Preprocessing.from_json(fields)
    except ConfigError as error:
        raise ConfigError(f"{owner}: {error}") from error
    raise ConfigError(
        f"{owner} does not say what its input is; give {', '.join(missing)}, or preprocessing (the "
        "weights of torchvision, an image processor of transformers, or a dict)"
    )


def _fields_of(described: Any) -> dict[str, Any]:
    """The fields of a `Preprocessing`, as far as they are known."""
    if described is None:
        return {}
    if isinstance(described, Preprocessing):
        return described.to_json()
    if isinstance(described, Mapping):
        return _of_timm(described)
    if hasattr(described, "to_json_string") and hasattr(described, "image_mean"):
        return preprocessing_of_processor(json.loads(described.to_json_string())).to_json()
    transforms = getattr(described, "transforms", None)  # a member of an enumeration of weights
    try:
        return _of_torchvision(transforms() if callable(transforms) else described)
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"preprocessing: a {type(described).__name__} says nothing of the input "
            f"({reason_of(error)}); give mean, std, input_size and interpolation"
        ) from error


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("input_size", "interpolation", "mean", "std", "crop_pct")
    fields = {name: config[name] for name in names if config.get(name) is not None}
    size = fields.get("input_size")
    if isinstance(size, tuple | list):
        if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
            raise ConfigError(
                f"its input_size {tuple(size)} is not that of squares in three colors"
            )
        fields["input_size"] = size[2]
    return fields


def _of_torchvision(preset: Any) -> dict[str, Any]:
    return {
        "input_size": preset.crop_size[0],
        "interpolation": preset.interpolation.value,
        "mean": list(preset.mean),
        "std": list(preset.std),
        "crop_pct": preset.crop_size[0] / preset.resize_size[0],
    }
