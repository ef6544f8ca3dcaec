"""ReLabel: fresh crops against labels that are pooled from one map of labels of each image.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021); the baseline of FKD (Shen and Xing, ECCV
2022), Table 3. Pooling is done where batches are loaded: `fkd.data.maps`, `fkd.labels.pooling`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.methods.method import (
    CropSourceKind,
    Method,
    MethodInputs,
    Outputs,
    PairedTargets,
    class_logits,
    pair_targets,
)


@dataclass(frozen=True, kw_only=True)
class ReLabelConfig:
    """ReLabel.

    Attributes:
        swap_xy: exchange the axes of the crop boxes where labels are pooled, as the authors' code
            does.
    """

    swap_xy: bool = False


class ReLabel(Method):
    """Any crop against the part of the map that it covers."""

    summary: ClassVar[str] = "fresh random crops against label maps of the whole images"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    reads_maps: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset({"temperature", "soft_weight", "label_smoothing"})
    options: ClassVar[str | None] = "relabel"

    def __init__(self, inputs: MethodInputs) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self.needs_classes = inputs.soft_weight < 1.0
        self._inputs = inputs
        self._loss = SoftTargetLoss(inputs.temperature, inputs.soft_weight)

    def targets(self, batch: Batch) -> PairedTargets:
        """The pooled labels."""
        assert batch.targets is not None
        return pair_targets(self._inputs, batch, batch.label_mixed(batch.targets))

    def loss(self, outputs: Outputs, targets: PairedTargets) -> Tensor:
        """Soft cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), *targets)
        return loss
