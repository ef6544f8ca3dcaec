"""Vanilla knowledge distillation: an online teacher labels the crops of the student.

    L = lambda t^2 H(softmax(T(x) / t), softmax(S(x) / t)) + (1 - lambda) H(y, softmax(S(x)))

Of a multi-label teacher, the softmax is a sigmoid of each class and H the binary cross-entropy.

With temperature t = 1 it is Eq. 1. Both networks see mixed crops.
Source: FKD (Shen and Xing, ECCV 2022), Eq. 1 and Fig. 5 (left); Hinton et al. 2015.
"""

from typing import ClassVar

from fkd.data.batches import Batch
from fkd.labels.targets import SoftTargets
from fkd.methods.method import CropSourceKind, MethodInputs, PairedMethod
from fkd.methods.online import OnlineTeacher


class KD(PairedMethod):
    """The teacher computes its label of every crop at every step."""

    summary: ClassVar[str] = "fresh random crops against an online teacher"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs, soft_scale=inputs.temperature * inputs.temperature)
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """The teacher's probabilities."""
        answer = self._teacher.answer(batch.crops, self._inputs.temperature)
        return SoftTargets.full(answer.probabilities, multi_label=self._inputs.multi_label)
