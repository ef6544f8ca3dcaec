"""MEAL V2: an ensemble's probabilities for a pretrained student, and a discriminator beside them.

    P = mean over teachers of softmax(T_i(x))       L = H(P, softmax(S(x))) + L_D

L_D is the loss of a small network D that tells the student's outputs from the teachers':

    rows of [S(x); mean of T_i(x)] -> D -> two outputs, binary cross-entropy with [1, 0] and [0, 1]

In the authors' code the student *lowers* L_D like D itself does, which they call a regularizer
("official"); with the gradient reversed it is adversarial ("reversed").
D is trained with the student's optimizer and learning rate, as it is there.

With FKD stored labels replace the teachers, and D compares probabilities, not logits.

Source: Shen and Savvides, "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet
without Tricks", 2020; FKD (Shen and Xing, ECCV 2022), Table 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fkd.checks import require_one_of
from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets
from fkd.methods.method import (
    OF_STORED_LABELS,
    CropSourceKind,
    Method,
    MethodInputs,
    Outputs,
    class_logits,
)
from fkd.methods.online import OnlineTeacher

Discriminator = Literal["official", "reversed", "off"]


@dataclass(frozen=True, kw_only=True)
class MealV2Config:
    """MEAL V2.

    Attributes:
        discriminator: official (the student lowers the discriminator's loss, as the authors' code
            has it, a regularizer), reversed (the student raises it, as an adversary would), or off.
    """

    discriminator: Discriminator = "official"

    def __post_init__(self) -> None:
        require_one_of(Discriminator, "mealv2.discriminator", self.discriminator)


class MealTargets(NamedTuple):
    """Labels of B crops, and the teachers' input of the discriminator, float32 (B, C)."""

    soft: SoftTargets
    discriminated: Tensor | None


class _Meal(Method):
    """Discriminator and loss, with online teachers and with stored labels."""

    options: ClassVar[str | None] = "mealv2"

    def __init__(
        self, inputs: MethodInputs, discriminator_input: Callable[[Tensor], Tensor]
    ) -> None:
        kind = inputs.options.discriminator
        self.auxiliary_model = None if kind == "off" else build_discriminator(inputs.num_classes)
        self._reversed = kind == "reversed"
        self._discriminator_input = discriminator_input
        self._loss = SoftTargetLoss()

    def loss(self, outputs: Outputs, targets: MealTargets) -> Tensor:
        """Soft cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), targets.soft)
        return loss

    def auxiliary_loss(self, outputs: Outputs, targets: MealTargets) -> Tensor | None:
        """The discriminator's loss."""
        if self.auxiliary_model is None or targets.discriminated is None:
            return None
        logits = class_logits(outputs)
        student = self._discriminator_input(reverse_gradient(logits) if self._reversed else logits)
        return discriminator_loss(self.auxiliary_model, student, targets.discriminated)


class MealV2(_Meal):
    """Online teachers; the discriminator compares logits."""

    summary: ClassVar[str] = "MEAL V2: online teachers, and a discriminator"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs, discriminator_input=torch.Tensor.float)
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats

    def targets(self, batch: Batch) -> MealTargets:
        """Mean probabilities of the teachers, and their mean logits."""
        answer = self._teacher.answer(batch.crops)
        return MealTargets(SoftTargets.full(answer.probabilities), answer.logits)


class MealV2FKD(_Meal):
    """Stored labels instead of teachers; the discriminator compares probabilities."""

    summary: ClassVar[str] = "MEAL V2 with FKD: labels from a store, and a discriminator"
    crop_source: ClassVar[CropSourceKind] = "stored"
    uses: ClassVar[frozenset[str]] = OF_STORED_LABELS

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs, discriminator_input=_probabilities)
        self.formats: tuple[InputSpec, ...] = (inputs.student,)

    def targets(self, batch: Batch) -> MealTargets:
        """The stored labels."""
        assert isinstance(batch.targets, SoftTargets)
        soft = batch.label_mixed(batch.targets)
        return MealTargets(soft, None if self.auxiliary_model is None else soft.dense())


def _probabilities(logits: Tensor) -> Tensor:
    return torch.softmax(logits.float(), dim=1)


def build_discriminator(num_classes: int) -> nn.Sequential:
    """Three linear layers C -> C/8 -> C/64 -> 2, each with a ReLU, also the last.

    The authors write them as 1x1 convolutions on (B, C, 1, 1): the same weights, 127,047 of them
    for 1,000 classes. With few classes the layers have at least 16 and 8 outputs: with two or
    three ReLUs, all are often dead.
    """
    wide, narrow = max(num_classes // 8, 16), max(num_classes // 64, 8)
    layers = (nn.Linear(num_classes, wide), nn.Linear(wide, narrow), nn.Linear(narrow, 2))
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))


def discriminator_loss(discriminator: nn.Module, student: Tensor, teachers: Tensor) -> Tensor:
    """Binary cross-entropy of telling students (B, C) from teachers (B, C), a scalar."""
    outputs = discriminator(torch.cat([student, teachers]))
    truth = torch.zeros_like(outputs)
    truth[: len(student), 0] = 1.0
    truth[len(student) :, 1] = 1.0
    return F.binary_cross_entropy_with_logits(outputs, truth)


def reverse_gradient(values: Tensor) -> Tensor:
    """The same values; their gradient changes its sign."""
    reversed_: Tensor = _ReverseGradient.apply(values)
    return reversed_


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad
