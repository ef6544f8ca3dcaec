"""Vanilla knowledge distillation: an online teacher labels the crops of the student.

    L = lambda t^2 H(softmax(T(x) / t), softmax(S(x) / t)) + (1 - lambda) H(y, softmax(S(x)))

With temperature t = 1 it is Eq. 1. Both networks see mixed crops.
Source: FKD (Shen and Xing, ECCV 2022), Eq. 1 and Fig. 5 (left); Hinton et al. 2015.
"""

from typing import ClassVar

from torch import Tensor

from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets
from fkd.methods.method import (
    CropSourceKind,
    Method,
    MethodInputs,
    Outputs,
    PairedTargets,
    class_logits,
    pair_targets,
)
from fkd.methods.online import OnlineTeacher


class KD(Method):
    """The teacher computes its label of every crop at every step."""

    summary: ClassVar[str] = "fresh random crops against an online teacher"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset({"temperature", "soft_weight", "label_smoothing"})

    def __init__(self, inputs: MethodInputs) -> None:
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats
        self.needs_classes = inputs.soft_weight < 1.0
        self._inputs = inputs
        t = inputs.temperature
        self._loss = SoftTargetLoss(t, inputs.soft_weight, soft_scale=t * t)

    def targets(self, batch: Batch) -> PairedTargets:
        """The teacher's probabilities."""
        answer = self._teacher.answer(batch.crops, self._inputs.temperature)
        return pair_targets(self._inputs, batch, SoftTargets.full(answer.probabilities))

    def loss(self, outputs: Outputs, targets: PairedTargets) -> Tensor:
        """Lambda of soft cross-entropy, the rest of ordinary cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), *targets)
        return loss
