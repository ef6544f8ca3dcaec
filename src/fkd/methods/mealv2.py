"""MEAL V2: an ensemble's probabilities for a pretrained student, and a discriminator beside them.

    P = mean over teachers of softmax(T_i(x))       L = H(P, softmax(S(x))) + L_D

L_D is what a small network D pays for telling the student's answers from the teachers':

    rows of [S(x); mean of T_i(x)] -> D -> two outputs, binary cross-entropy with [1, 0] and [0, 1]

In the authors' code the student *lowers* L_D like D itself does, which they call a regularizer
("official"); with the gradient reversed it is the adversary that the name promises ("reversed").
D learns with the student's optimizer and learning rate, as it does there.

With FKD the stored labels take the teachers' place, and D compares probabilities, not logits.

Source: Shen and Savvides, "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet
without Tricks", 2020; FKD (Shen and Xing, ECCV 2022), Table 4.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


class MealTargets(NamedTuple):
    """Labels of B crops, and what the discriminator knows the teachers by, float32 (B, C)."""

    soft: SoftTargets
    shown: Tensor | None


class _Meal(Method):
    """What both have in common: the discriminator and the loss."""

    uses: ClassVar[frozenset[str]] = frozenset({"mealv2"})

    def __init__(self, inputs: MethodInputs, shows: Callable[[Tensor], Tensor]) -> None:
        kind = inputs.mealv2.discriminator
        self.auxiliary_model = None if kind == "off" else build_discriminator(inputs.num_classes)
        self._reversed = kind == "reversed"
        self._shows = shows  # what the discriminator knows the student by
        self._loss = SoftTargetLoss()

    def loss(self, outputs: Outputs, targets: MealTargets) -> Tensor:
        """Soft cross-entropy and the discriminator's loss."""
        logits = class_logits(outputs)
        loss: Tensor = self._loss(logits, targets.soft)
        if self.auxiliary_model is None or targets.shown is None:
            return loss
        student = self._shows(reverse_gradient(logits) if self._reversed else logits)
        return loss + discriminator_loss(self.auxiliary_model, student, targets.shown)


class MealV2(_Meal):
    """Teachers asked online; the discriminator compares logits."""

    summary: ClassVar[str] = "MEAL V2: an ensemble asked online, and a discriminator"
    views: ClassVar[CropSourceKind] = "fresh"
    asks_teacher: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs, shows=torch.Tensor.float)
        self._teacher = OnlineTeacher(inputs)
        self.formats = self._teacher.formats

    def targets(self, batch: Batch) -> MealTargets:
        """Mean probabilities of the teachers, and their mean logits."""
        answer = self._teacher.answer(batch.crops)
        return MealTargets(SoftTargets.full(answer.probabilities), answer.logits)


class MealV2FKD(_Meal):
    """Stored labels in the teachers' place; the discriminator compares probabilities."""

    summary: ClassVar[str] = "MEAL V2 with FKD: labels from a store, and a discriminator"
    views: ClassVar[CropSourceKind] = "stored"
    uses: ClassVar[frozenset[str]] = _Meal.uses | OF_STORED_LABELS

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs, shows=lambda logits: torch.softmax(logits.float(), dim=1))
        self.formats: tuple[InputSpec, ...] = (inputs.student,)

    def targets(self, batch: Batch) -> MealTargets:
        """What the teachers said when the store was made."""
        assert batch.targets is not None
        soft = batch.label_mixed(batch.targets)
        return MealTargets(soft, None if self.auxiliary_model is None else soft.dense())


def build_discriminator(num_classes: int) -> nn.Sequential:
    """Three linear layers C -> C/8 -> C/64 -> 2, each with a ReLU, also the last.

    The authors write them as 1x1 convolutions on (B, C, 1, 1): the same weights, 127,047 of them
    for 1,000 classes. With few classes the layers have at least 16 and 8 outputs: of two or three
    ReLUs, all are often dead.
    """
    wide, narrow = max(num_classes // 8, 16), max(num_classes // 64, 8)
    layers = (nn.Linear(num_classes, wide), nn.Linear(wide, narrow), nn.Linear(narrow, 2))
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))


def discriminator_loss(discriminator: nn.Module, student: Tensor, teachers: Tensor) -> Tensor:
    """Binary cross-entropy of telling students (B, C) from teachers (B, C), a scalar."""
    verdicts = discriminator(torch.cat([student, teachers]))
    truth = torch.zeros_like(verdicts)
    truth[: len(student), 0] = 1.0
    truth[len(student) :, 1] = 1.0
    return F.binary_cross_entropy_with_logits(verdicts, truth)


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
