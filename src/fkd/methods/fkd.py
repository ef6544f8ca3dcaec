"""Fast knowledge distillation: crops and soft labels both come from the label store.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3 and Fig. 5 (right).
"""

from typing import ClassVar

from torch import Tensor

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.methods.method import (
    OF_STORED_LABELS,
    CropSourceKind,
    Method,
    MethodInputs,
    Outputs,
    PairedTargets,
    class_logits,
    pair_targets,
)


class FKD(Method):
    """Replay the teacher's crops against the labels it gave them."""

    summary: ClassVar[str] = "crops and soft labels from a label store, without a teacher"
    crop_source: ClassVar[CropSourceKind] = "stored"
    uses: ClassVar[frozenset[str]] = OF_STORED_LABELS | {
        "temperature",
        "soft_weight",
        "label_smoothing",
    }

    def __init__(self, inputs: MethodInputs) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self.needs_classes = inputs.soft_weight < 1.0
        self._inputs = inputs
        self._loss = SoftTargetLoss(inputs.temperature, inputs.soft_weight)

    def targets(self, batch: Batch) -> PairedTargets:
        """The stored labels."""
        assert batch.targets is not None
        return pair_targets(self._inputs, batch, batch.label_mixed(batch.targets))

    def loss(self, outputs: Outputs, targets: PairedTargets) -> Tensor:
        """Soft cross-entropy, straight from the sparse labels."""
        loss: Tensor = self._loss(class_logits(outputs), *targets)
        return loss
