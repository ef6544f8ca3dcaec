"""DeiT distillation: a transformer learns the true class and a teacher's word, token by token.

    L = (1 - alpha) CE(z_class, y) + alpha L_teacher(z_distillation)

    hard   L_teacher = CE(z, argmax T(x))
    soft   L_teacher = t^2 KL(softmax(T(x) / t) || softmax(z / t))

A network without a distillation token (z_distillation = z_class) learns both with its only head.
The teacher sees the crop as the student does, augmented and mixed.

Source: Touvron et al., "Training data-efficient image transformers & distillation through
attention", 2021, Sec. 4.
"""

from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from fkd.data.batches import Batch
from fkd.labels.losses import kl_divergence, soft_cross_entropy
from fkd.labels.targets import SoftTargets
from fkd.methods.method import (
    CropSourceKind,
    Method,
    MethodInputs,
    Outputs,
    class_logits,
    true_labels,
)
from fkd.methods.online import OnlineTeacher


class DeitTargets(NamedTuple):
    """Labels of B crops: the true ones, smoothed and mixed, and the teacher's."""

    truth: SoftTargets
    teacher: SoftTargets


class Deit(Method):
    """True classes for the class token, the teacher for the distillation token."""

    summary: ClassVar[str] = "DeiT: true classes and a teacher, hard or soft, token by token"
    views: ClassVar[CropSourceKind] = "fresh"
    asks_teacher: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset({"temperature", "label_smoothing", "deit"})
    needs_classes = True

    def __init__(self, inputs: MethodInputs) -> None:
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats
        self._num_classes = inputs.num_classes
        self._smoothing = inputs.label_smoothing
        self._temperature = inputs.temperature
        self._options = inputs.deit

    def begin(self, student: nn.Module) -> None:
        """Have both tokens answer while training; timm's networks average them otherwise."""
        distilled: Any = student
        if hasattr(student, "set_distilled_training"):
            distilled.set_distilled_training(True)

    def targets(self, batch: Batch) -> DeitTargets:
        """The truth, and what the teacher says now."""
        answer = self._teacher.answer(batch.crops, self._temperature)
        if self._options.kind == "hard":
            teacher = SoftTargets.one_hot(answer.probabilities.argmax(1), self._num_classes)
        else:
            teacher = SoftTargets.full(answer.probabilities)
        return DeitTargets(true_labels(batch, self._num_classes, self._smoothing), teacher)

    def loss(self, outputs: Outputs, targets: DeitTargets) -> Tensor:
        """The blend of both tokens' losses."""
        of_class = class_logits(outputs)
        of_teacher = outputs[1] if isinstance(outputs, tuple) else outputs
        alpha = self._options.alpha
        base = soft_cross_entropy(of_class, targets.truth).mean()
        return (1.0 - alpha) * base + alpha * self._distillation(of_teacher, targets.teacher)

    def _distillation(self, logits: Tensor, teacher: SoftTargets) -> Tensor:
        if self._options.kind == "hard":
            return soft_cross_entropy(logits, teacher).mean()
        t = self._temperature
        loss = t * t * kl_divergence(logits, teacher, t).mean()
        return loss / self._num_classes if self._options.divide_by_classes else loss
