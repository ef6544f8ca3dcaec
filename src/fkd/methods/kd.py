"""Vanilla knowledge distillation: a teacher is asked online, on the very crops of the student.

    L = lambda t^2 H(softmax(T(x) / t), softmax(S(x) / t)) + (1 - lambda) H(y, softmax(S(x)))

With temperature t = 1 it is Eq. 1. Crops that are mixed are shown mixed to both networks.
Source: FKD (Shen and Xing, ECCV 2022), Eq. 1 and Fig. 5 (left); Hinton et al. 2015.
"""

from typing import ClassVar

from torch import Tensor

from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets
from fkd.methods.blend import Blend, blend
from fkd.methods.method import CropSourceKind, Method, MethodInputs, Outputs, class_logits
from fkd.methods.online import OnlineTeacher


class KD(Method):
    """Ask the teacher about every crop, every time."""

    summary: ClassVar[str] = "fresh random crops against a teacher that is asked online"
    views: ClassVar[CropSourceKind] = "fresh"
    asks_teacher: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset({"temperature", "soft_weight", "label_smoothing"})

    def __init__(self, inputs: MethodInputs) -> None:
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats
        self.needs_classes = inputs.soft_weight < 1.0
        self._ingredients = inputs
        t = inputs.temperature
        self._loss = SoftTargetLoss(t, inputs.soft_weight, soft_scale=t * t)

    def targets(self, batch: Batch) -> Blend:
        """What the teacher says now."""
        answer = self._teacher.answer(batch.crops, self._ingredients.temperature)
        return blend(self._ingredients, batch, SoftTargets.full(answer.probabilities))

    def loss(self, outputs: Outputs, targets: Blend) -> Tensor:
        """Lambda of soft cross-entropy, the rest of ordinary cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), *targets)
        return loss
