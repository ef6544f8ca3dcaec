"""FunMatch: the student matches the teacher's function on mixed crops that both see.

Against vanilla KD: one tensor goes through both networks (same box, same size, same augmentation),
MixUp blends it first, true classes are not used, and training is long.

    x~ = a x + (1 - a) x_partner        L = t^2 KL(softmax(T(x~) / t) || softmax(S(x~) / t))

Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2022.
Differs: partners by a random permutation instead of the neighbor in the batch, and a in (0, 1)
instead of (1/2, 1), which is the same mixture with the pair exchanged. Several teachers are
averaged instead of summed, which only scales the loss.
"""

from typing import ClassVar

from torch import Tensor

from fkd.data.batches import Batch
from fkd.labels.losses import kl_divergence
from fkd.labels.targets import SoftTargets
from fkd.methods.method import CropSourceKind, Method, MethodInputs, Outputs, class_logits
from fkd.methods.online import OnlineTeacher


class FunMatch(Method):
    """The same mixed crops for both networks, KL, no true classes."""

    summary: ClassVar[str] = "the same mixed crops for teacher and student, KL, no true classes"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset({"temperature"})
    needs_mixing: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        self._teacher = OnlineTeacher(inputs, shares_crops=True)
        self.formats = self._teacher.formats
        self._temperature = inputs.temperature

    def targets(self, batch: Batch) -> SoftTargets:
        """The teacher's probabilities of the mixed crops of the student."""
        return SoftTargets.full(self._teacher.answer(batch.crops, self._temperature).probabilities)

    def loss(self, outputs: Outputs, targets: SoftTargets) -> Tensor:
        """KL with temperature."""
        t = self._temperature
        return t * t * kl_divergence(class_logits(outputs), targets, t).mean()
