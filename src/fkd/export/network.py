"""What is exported: a network, with or without its normalization and the softmax, and its input.

    normalize   input         what it takes                     softmax   output
    false       pixel_values  float32, normalized               false     logits, or embeddings
    true        pixels        uint8, 0 to 255                   true      probabilities

Inputs are (B, 3, S, S), red, green, blue; B is any number of crops.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkd.models.preprocessing import Preprocessing


class ExportedNetwork(nn.Module):
    """A network in eval mode, with what is put into the file around it.

    Args:
        model: of crops float32 (B, 3, S, S), on the CPU.
        expected: its input.
        normalize: whether crops are uint8 and are normalized here.
        softmax: whether outputs are probabilities.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, expected: Preprocessing, *, normalize: bool, softmax: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize
        self.softmax = softmax
        for name, colors in (("mean", expected.mean), ("std", expected.std)):
            values = 255 * torch.tensor(colors).reshape(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.eval()

    def forward(self, crops: Tensor) -> Tensor:
        """Outputs (B, C) of crops (B, 3, S, S), uint8 or normalized float32."""
        if self.normalize:
            crops = (crops.float() - self.mean) / self.std
        outputs: Tensor = self.model(crops)
        return outputs.softmax(1) if self.softmax else outputs


@dataclass(frozen=True)
class ExportedInterface:
    """Names, kinds and preprocessing of what goes in and comes out.

    Attributes:
        expected: the input of the network.
        class_names: of its outputs; none of embeddings.
        normalize: as for `ExportedNetwork`.
        softmax: likewise.
    """

    expected: Preprocessing
    class_names: list[str]
    normalize: bool
    softmax: bool

    @property
    def input_name(self) -> str:
        """What the file calls its input; transformers says the same of normalized crops."""
        return "pixels" if self.normalize else "pixel_values"

    @property
    def output_name(self) -> str:
        """What the file calls its output."""
        if not self.class_names:
            return "embeddings"
        return "probabilities" if self.softmax else "logits"

    def prepare(self, crops: Tensor) -> Tensor:
        """What the file takes of crops uint8 (B, 3, S, S)."""
        return (crops if self.normalize else self.expected.normalize(crops)).contiguous()

    def noise(self, num_crops: int) -> Tensor:
        """Crops of noise as the file takes them, always the same."""
        side = self.expected.input_size
        generator = torch.Generator().manual_seed(0)
        shape = (num_crops, 3, side, side)
        return self.prepare(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))

    def describe(self) -> dict[str, Any]:
        """The preprocessing as it is written into the file, for JSON."""
        expected = self.expected
        return {
            "input": self.input_name,
            "dtype": "uint8" if self.normalize else "float32",
            "layout": "NCHW, RGB",
            "normalized_inside": self.normalize,
            "input_size": expected.input_size,
            "crop_pct": expected.crop_pct,
            "interpolation": expected.interpolation,
            "mean": list(expected.mean),
            "std": list(expected.std),
        }
