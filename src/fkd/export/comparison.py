"""Whether a file gives what the network gives: the same crops through both."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fkd.data.sources import ImagesConfig, load, open_source, spread_images
from fkd.errors import ExportError
from fkd.evaluation.accuracy import center_crop
from fkd.export.formats import Run
from fkd.export.network import ExportedInterface
from fkd.models.preprocessing import Preprocessing

NUM_CROPS = 16
TOLERANCE = 1e-4
"""The largest difference that counts as equal, relative to the largest output."""


@dataclass(frozen=True)
class Comparison:
    """The outputs of a file beside those of the network.

    Attributes:
        num_crops: compared.
        crops: what they are.
        max_difference: of an output.
        largest_output: magnitude, of the network.
        same_top1: share of the crops whose largest output is the same.
    """

    num_crops: int
    crops: str
    max_difference: float
    largest_output: float
    same_top1: float

    @property
    def relative_difference(self) -> float:
        """The largest difference over the largest output."""
        return self.max_difference / (self.largest_output or 1.0)


def load_crops(images: ImagesConfig | None, expected: Preprocessing) -> tuple[Tensor, str]:
    """Crops to compare, uint8 (B, 3, S, S), and what they are.

    Args:
        images: whose center crops are taken, spread over all of them; None for noise.
        expected: the input of the network.

    Raises:
        FKDError: an image cannot be read.
    """
    side = expected.input_size
    if images is None:
        generator = torch.Generator().manual_seed(0)
        shape = (NUM_CROPS, 3, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), "of noise"
    source = open_source(images)
    chosen = spread_images(source, NUM_CROPS)
    crops = torch.stack([center_crop(load(source, i).image, expected) for i in chosen])
    return crops, f"of images in {images.root}"


@torch.inference_mode()
def compare(
    run: Run, model: nn.Module, interface: ExportedInterface, crops: Tensor, kind: str
) -> Comparison:
    """Compare a file with the network, on all crops at once and on one alone.

    Args:
        run: the file.
        model: the network in eval mode, on the CPU; of normalized crops, without the softmax.
        interface: of the file.
        crops: uint8 (B, 3, S, S).
        kind: what they are, for people.

    Raises:
        ExportError: the outputs differ by more than `TOLERANCE`, or are not finite.
    """
    expected = model(interface.expected.normalize(crops))
    if interface.softmax:
        expected = expected.softmax(1)
    if not expected.isfinite().all():
        raise ExportError(
            "the network gives outputs that are not finite, so nothing can be compared; train it "
            "again, or give another checkpoint"
        )
    prepared = interface.prepare(crops)
    found = run(prepared)
    alone = run(prepared[:1])
    if (found.shape, alone.shape) != (expected.shape, expected[:1].shape):
        raise ExportError(
            f"the exported network gives outputs of shape {tuple(found.shape)} in the place of "
            f"{tuple(expected.shape)}; use another format"
        )
    difference = torch.cat([found - expected, alone - expected[:1]]).abs().max()
    comparison = Comparison(
        num_crops=len(crops),
        crops=kind,
        max_difference=float(difference),
        largest_output=float(expected.abs().max()),
        same_top1=float((found.argmax(1) == expected.argmax(1)).float().mean()),
    )
    if not comparison.relative_difference <= TOLERANCE:  # NaN is refused, too
        raise ExportError(
            f"the exported network gives other outputs than torch: they differ by up to "
            f"{comparison.max_difference:.2g}, {comparison.relative_difference:.2g} of the "
            f"largest, and {TOLERANCE:g} is allowed; nothing was written. Use another format, or "
            "other versions of torch and onnxruntime"
        )
    return comparison
