"""Several teachers as one: the mean of their classes, or their embeddings side by side.

Embeddings of several teachers are standardized, so that neither the size of its numbers nor their
count lets one teacher drown another:

    row = [part_1, part_2, ...]    part_t = sqrt(share_t) (embedding_t - mean_t) / length_t

mean_t is one number, the mean over crops and columns, and length_t the root mean square length of
what is left: parts have a squared length of share_t on average, the teacher's share of all weights.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fkd.crops.replay import InputSpec
from fkd.errors import ConfigError
from fkd.models.classes import numbered_classes, refuse_duplicates
from fkd.models.numerics import Autocast
from fkd.models.single_teacher import Activation, Teacher, activate


class Standardization(NamedTuple):
    """Makes embeddings of one teacher comparable with those of others.

    Attributes:
        mean: over crops and columns.
        length: root mean square length of embeddings less their mean, above 0.
    """

    mean: float
    length: float


class Answer(NamedTuple):
    """Outputs of one or several teachers for B crops.

    Attributes:
        probabilities: weighted mean of theirs, float32 (B, C).
        logits: plain mean of theirs, float32 (B, C).
    """

    probabilities: Tensor
    logits: Tensor


class TeacherEnsemble:
    """Teachers whose outputs are averaged, with the same classes in the same order.

    Teachers without classes have their embeddings side by side, see the top of this file.

    Attributes:
        teachers: its members, at least one.
        class_names: of the columns of the outputs; of embeddings, their numbers.
        standardization: of each of several embeddings; None where they are not standardized.
        views: what crops must be made for, without repetition: the order of `crops` below.
    """

    def __init__(
        self, teachers: Sequence[Teacher], class_names: Sequence[str] | None = None
    ) -> None:
        """Takes teachers and the classes of the outputs, by default those of the first teacher.

        Raises:
            ConfigError: there is no teacher, one does not know a class, or some have no classes.
        """
        if not teachers:
            raise ConfigError("teachers: give at least one teacher")
        _refuse_mixed(teachers)
        if class_names is not None and not teachers[0].is_classifier:
            raise ConfigError(
                f"teacher.output: {teachers[0].name} gives {teachers[0].output}, which are no "
                "classes and cannot be those of the images or the store; leave it out"
            )
        self.standardization: list[Standardization] | None = None
        if len(teachers) > 1 and not teachers[0].is_classifier:
            width = sum(len(teacher.class_names) for teacher in teachers)
            self.class_names = numbered_classes(width)
            self.teachers = list(teachers)
        else:
            own = teachers[0].class_names
            self.class_names = list(own if class_names is None else class_names)
            refuse_duplicates(self.class_names, "the data set")
            self.teachers = [teacher.with_classes(self.class_names) for teacher in teachers]
        self.views: list[InputSpec] = list(dict.fromkeys(teacher.view for teacher in self.teachers))

    def standardized(self, standardization: Sequence[Standardization]) -> "TeacherEnsemble":
        """The same teachers with their embeddings standardized, one after the other."""
        ensemble = copy.copy(self)
        ensemble.standardization = list(standardization)
        return ensemble

    @property
    def is_classifier(self) -> bool:
        """Whether the columns of the outputs are classes; if not, they are features."""
        return self.teachers[0].is_classifier

    def __repr__(self) -> str:
        names = " + ".join(teacher.name for teacher in self.teachers)
        return f"TeacherEnsemble({names}, {len(self.class_names)} classes)"

    def to(self, device: torch.device | str) -> "TeacherEnsemble":
        """Move all networks; returns itself."""
        for teacher in self.teachers:
            teacher.to(torch.device(device))
        return self

    def compile(self, batch_size: int | None = None, autocast: Autocast | None = None) -> None:
        """Compile all networks on their device; arguments and errors as `Teacher.compile`."""
        for teacher in self.teachers:
            teacher.compile(batch_size, autocast)

    def probabilities(
        self,
        crops: Sequence[Tensor],
        *,
        autocast: Autocast | None = None,
        activation: Activation = "softmax",
    ) -> Tensor:
        """The probabilities of `answer`, float32 (B, C); arguments and errors likewise."""
        return self.answer(crops, autocast=autocast, activation=activation).probabilities

    def answer(
        self,
        crops: Sequence[Tensor],
        *,
        autocast: Autocast | None = None,
        temperature: float = 1.0,
        activation: Activation = "softmax",
    ) -> Answer:
        """The mean outputs of the teachers.

        Source: MEAL V2 (Shen and Savvides, 2020), Sec. 3: the average over all classes, before any
        compression.

        Args:
            crops: the same crops once for each of `views`, uint8 (B, 3, S, S).
            autocast: compute in half precision; faster and less exact.
            temperature: divides the logits before the softmax, besides each teacher's own.
            activation: softmax, or of multi-label teachers sigmoid.

        Raises:
            TeacherError: an output is not finite, or the crops are not of the views.
        """
        total = sum(teacher.weight for teacher in self.teachers)
        logits = [t.logits(self._for(t, crops), autocast=autocast) for t in self.teachers]
        shares = [
            activate(of_one / (teacher.temperature * temperature), activation)
            * (teacher.weight / total)
            for teacher, of_one in zip(self.teachers, logits, strict=True)
        ]
        return Answer(sum(shares[1:], start=shares[0]), torch.stack(logits).mean(0))

    def each(
        self,
        crops: Sequence[Tensor],
        *,
        autocast: Autocast | None = None,
        activation: Activation = "softmax",
    ) -> Tensor:
        """Every teacher's own probabilities, float32 (B, T, C); errors as `answer`."""
        probabilities = [
            t.probabilities(self._for(t, crops), autocast=autocast, activation=activation)
            for t in self.teachers
        ]
        return torch.stack(probabilities, dim=1)

    def logits(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """Logits of a single teacher, or embeddings of one or several teachers, float32 (B, C);
        arguments and errors as `probabilities`.

        Raises:
            ConfigError: there are several teachers, and their logits have no common scale.
        """
        if self.is_classifier and len(self.teachers) > 1:
            raise ConfigError(
                f"logits of {len(self.teachers)} teachers cannot be averaged; use one teacher, or "
                "a codec of probabilities"
            )
        outputs = self.embeddings(crops, autocast=autocast)
        if len(self.teachers) > 1:
            if self.standardization is None:
                raise ConfigError("embeddings of several teachers must be standardized first")
            total = sum(teacher.weight for teacher in self.teachers)
            outputs = [
                (embedding - mean) * (math.sqrt(teacher.weight / total) / length)
                for teacher, embedding, (mean, length) in zip(
                    self.teachers, outputs, self.standardization, strict=True
                )
            ]
        return torch.cat(outputs, dim=1)

    def embeddings(
        self, crops: Sequence[Tensor], *, autocast: Autocast | None = None
    ) -> list[Tensor]:
        """Every teacher's own outputs before any softmax, float32 (B, its columns), as they are."""
        return [t.logits(self._for(t, crops), autocast=autocast) for t in self.teachers]

    def identity(self) -> list[dict[str, Any]]:
        """What the outputs depend on besides `class_names`, one JSON object per teacher."""
        identities = [teacher.identity() for teacher in self.teachers]
        if self.standardization is None:
            return identities
        return [
            identity | {"standardization": list(standardization)}
            for identity, standardization in zip(identities, self.standardization, strict=True)
        ]

    def _for(self, teacher: Teacher, crops: Sequence[Tensor]) -> Tensor:
        return crops[self.views.index(teacher.view)]


def _refuse_mixed(teachers: Sequence[Teacher]) -> None:
    """Classes and embeddings have nothing in common."""
    for teacher in teachers[1:]:
        if teacher.is_classifier != teachers[0].is_classifier:
            raise ConfigError(
                f"teachers: {teachers[0].name} gives {teachers[0].output} and {teacher.name} "
                f"{teacher.output}; use teachers of classes only, or of embeddings only (output)"
            )
