"""What a network expects of its input: size, interpolation, mean and deviation of the colors.

The figures come from the network's own configuration, never from a person: a wrong normalization
costs ten points of accuracy and nothing crashes.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor

from fkd.checks import require_at_least, require_in, require_one_of
from fkd.crops.replay import Interpolation
from fkd.errors import ConfigError
from fkd.models.names import ModelName


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The input of a network.

    Attributes:
        input_size: height and width, pixels.
        interpolation: how crops are resized to it.
        mean: of red, green, blue, where white is 1.
        std: standard deviation of red, green, blue.
        crop_pct: share of the resized image's side that a central crop keeps in evaluation.
    """

    input_size: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float

    def __post_init__(self) -> None:
        require_at_least(1, "input_size", self.input_size)
        require_one_of(Interpolation, "interpolation", self.interpolation)
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean must be three numbers, got {self.mean}")
        if len(self.std) != 3 or not all(0 < std < math.inf for std in self.std):
            raise ConfigError(f"std must be three positive numbers, got {self.std}")
        require_in("(0, 1]", "crop_pct", self.crop_pct)

    def normalize(self, crops: Tensor) -> Tensor:
        """From uint8 (B, 3, S, S) to float32 of mean 0 and deviation 1, in channels-last memory.

        The operations and their order are those of torchvision's ToTensor and Normalize, so the
        result is the same to the last bit. Whole rows are one axis, because an innermost axis of
        three colors is slow: 0.14 instead of 0.40 ms for a crop of 224 pixels.
        """
        num_crops, channels, height, width = crops.shape
        mean = torch.tensor(self.mean, device=crops.device).repeat(width)
        std = torch.tensor(self.std, device=crops.device).repeat(width)
        pixels = torch.empty(
            crops.shape,
            dtype=torch.float32,
            device=crops.device,
            memory_format=torch.channels_last,
        )
        rows = pixels.permute(0, 2, 3, 1).view(num_crops, height, width * channels)
        rows.copy_(crops.permute(0, 2, 3, 1).reshape(rows.shape))
        rows.div_(255).sub_(mean).div_(std)
        return pixels

    def changed(
        self,
        *,
        input_size: int | None = None,
        interpolation: Interpolation | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Preprocessing":
        """With the values that are not None in the place of its own.

        Raises:
            ConfigError: a value is impossible.
        """
        given = {"input_size": input_size, "interpolation": interpolation, "mean": mean, "std": std}
        values = {name: value for name, value in given.items() if value is not None}
        return self.from_json({**asdict(self), **values})

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` takes them."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Preprocessing":
        """From the fields of `to_json`; others are left alone.

        Raises:
            ConfigError: a field is missing or impossible.
        """
        try:
            return cls(
                input_size=int(fields["input_size"]),
                interpolation=fields["interpolation"],
                mean=_three(fields["mean"]),
                std=_three(fields["std"]),
                crop_pct=float(fields.get("crop_pct", 1.0)),
            )
        except KeyError as error:
            raise ConfigError(f"the preprocessing lacks the field {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"the preprocessing has an impossible field ({error})") from error


def default_preprocessing(name: ModelName) -> Preprocessing:
    """The preprocessing that a network's pretrained weights were made with.

    Raises:
        ConfigError: its input is not square, or its interpolation is unknown here.
    """
    return _of_torchvision(name) if name.library == "torchvision" else _of_timm(name)


def has_fixed_input_size(name: ModelName) -> bool:
    """Whether the network must be built for its input size, as most transformers."""
    return name.library == "timm" and bool(_timm_config(name).fixed_input_size)


def _of_timm(name: ModelName) -> Preprocessing:
    config = _timm_config(name)
    _, height, width = config.input_size
    if height != width:
        raise ConfigError(f"model {name} takes images of {width}x{height}; only squares are cut")
    return Preprocessing(
        input_size=height,
        interpolation=config.interpolation,
        mean=_three(config.mean),
        std=_three(config.std),
        crop_pct=float(config.crop_pct),
    )


def _timm_config(name: ModelName) -> Any:
    return timm.get_pretrained_cfg(name.library_name)


def _of_torchvision(name: ModelName) -> Preprocessing:
    weights = torchvision.models.get_model_weights(name.architecture)
    preset = (weights[name.tag] if name.tag else weights.DEFAULT).transforms()
    return Preprocessing(
        input_size=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=_three(preset.mean),
        std=_three(preset.std),
        crop_pct=preset.crop_size[0] / preset.resize_size[0],
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
