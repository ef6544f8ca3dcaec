"""Plain training: random crops against the true classes.

Images with several classes each are learned by binary cross-entropy, against all of these.
With several crops per image it is the paper's multi-crop baseline.
Source: FKD (Shen and Xing, ECCV 2022), Table 7, first row.
"""

from typing import ClassVar

from torch import Tensor

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets
from fkd.methods.method import (
    CropSourceKind,
    Method,
    MethodInputs,
    Outputs,
    class_logits,
    true_labels,
)


class Vanilla(Method):
    """Fresh crops against one-hot classes."""

    summary: ClassVar[str] = "fresh random crops against the true classes; no teacher"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    uses: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    needs_classes = True
    learns_multi_label: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self._num_classes = inputs.num_classes
        self._smoothing = inputs.label_smoothing
        self._loss = SoftTargetLoss()

    def targets(self, batch: Batch) -> SoftTargets:
        """The class of each image, or its classes, smoothed by `label_smoothing`."""
        return true_labels(batch, self._num_classes, self._smoothing)

    def loss(self, outputs: Outputs, targets: SoftTargets) -> Tensor:
        """Cross-entropy; of images with several classes each binary cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), targets)
        return loss
