"""DeiT distillation: one token of a transformer learns the true class, another the teacher's label.

    L = (1 - alpha) CE(z_class, y) + alpha L_teacher(z_distillation)

    hard   L_teacher = CE(z, argmax T(x))
    soft   L_teacher = t^2 KL(softmax(T(x) / t) || softmax(z / t))

A network without a distillation token (z_distillation = z_class) learns both with its only head.
The teacher sees the crop as the student does, augmented and mixed.

Source: Touvron et al., "Training data-efficient image transformers & distillation through
attention", 2021, Sec. 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from fkd.checks import require_in, require_one_of
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

Kind = Literal["hard", "soft"]


@dataclass(frozen=True, kw_only=True)
class DeitConfig:
    """DeiT distillation.

    Attributes:
        kind: hard (the teacher's most probable class) or soft (its probabilities, with
            temperature).
        alpha: weight of the teacher against the true class; the paper uses 0.5 for hard labels.
        divide_by_classes: divide the soft loss by the number of classes too, as the authors' code
            does; not in the paper.
    """

    kind: Kind = "hard"
    alpha: float = 0.5
    divide_by_classes: bool = False

    def __post_init__(self) -> None:
        require_one_of(Kind, "deit.kind", self.kind)
        require_in("[0, 1]", "deit.alpha", self.alpha)


class DeitTargets(NamedTuple):
    """Labels of B crops: the true ones, smoothed and mixed, and the teacher's."""

    truth: SoftTargets
    teacher: SoftTargets


class Deit(Method):
    """True classes for the class token, the teacher for the distillation token."""

    summary: ClassVar[str] = "DeiT: true classes and a teacher, hard or soft, token by token"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset({"temperature", "label_smoothing"})
    options: ClassVar[str | None] = "deit"
    needs_classes = True

    def __init__(self, inputs: MethodInputs) -> None:
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats
        self._num_classes = inputs.num_classes
        self._smoothing = inputs.label_smoothing
        self._temperature = inputs.temperature
        self._options: DeitConfig = inputs.options

    def prepare_student(self, student: nn.Module) -> None:
        """Let training return both tokens' logits; timm's networks average them otherwise."""
        set_distilled_training: Any = getattr(student, "set_distilled_training", None)
        if set_distilled_training is not None:
            set_distilled_training(True)

    def targets(self, batch: Batch) -> DeitTargets:
        """The true classes, and the teacher's labels."""
        answer = self._teacher.answer(batch.crops, self._temperature)
        if self._options.kind == "hard":
            teacher = SoftTargets.one_hot(answer.probabilities.argmax(1), self._num_classes)
        else:
            teacher = SoftTargets.full(answer.probabilities)
        return DeitTargets(true_labels(batch, self._num_classes, self._smoothing), teacher)

    def loss(self, outputs: Outputs, targets: DeitTargets) -> Tensor:
        """The weighted mean of both tokens' losses."""
        distillation_logits = outputs[1] if isinstance(outputs, tuple) else outputs
        alpha = self._options.alpha
        base = soft_cross_entropy(class_logits(outputs), targets.truth).mean()
        distillation = self._distillation(distillation_logits, targets.teacher)
        return (1.0 - alpha) * base + alpha * distillation

    def _distillation(self, logits: Tensor, teacher: SoftTargets) -> Tensor:
        if self._options.kind == "hard":
            return soft_cross_entropy(logits, teacher).mean()
        t = self._temperature
        loss = t * t * kl_divergence(logits, teacher, t).mean()
        return loss / self._num_classes if self._options.divide_by_classes else loss
