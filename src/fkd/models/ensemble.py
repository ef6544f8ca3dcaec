"""Several teachers as one: the mean of what they say of the same crops."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fkd.crops.replay import InputSpec
from fkd.errors import ConfigError
from fkd.models.classes import refuse_duplicates
from fkd.models.numerics import Autocast
from fkd.models.single_teacher import Teacher


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

    Attributes:
        teachers: its members, at least one.
        class_names: of the columns of the outputs.
        views: what crops must be made for, without repetition: the order of `crops` below.
    """

    def __init__(
        self, teachers: Sequence[Teacher], class_names: Sequence[str] | None = None
    ) -> None:
        """Takes teachers and the classes of the outputs, by default those of the first teacher.

        Raises:
            ConfigError: there is no teacher, or one does not know a class.
        """
        if not teachers:
            raise ConfigError("teachers: give at least one teacher")
        self.class_names = list(teachers[0].class_names if class_names is None else class_names)
        refuse_duplicates(self.class_names, "the data set")
        self.teachers = [teacher.with_classes(self.class_names) for teacher in teachers]
        self.views: list[InputSpec] = list(dict.fromkeys(teacher.view for teacher in self.teachers))

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

    def probabilities(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """The probabilities of `answer`, float32 (B, C); arguments and errors likewise."""
        return self.answer(crops, autocast=autocast).probabilities

    def answer(
        self,
        crops: Sequence[Tensor],
        *,
        autocast: Autocast | None = None,
        temperature: float = 1.0,
    ) -> Answer:
        """The mean outputs of the teachers.

        Source: MEAL V2 (Shen and Savvides, 2020), Sec. 3: the average over all classes, before any
        compression.

        Args:
            crops: the same crops once for each of `views`, uint8 (B, 3, S, S).
            autocast: compute in half precision; faster and less exact.
            temperature: divides the logits before the softmax, besides each teacher's own.

        Raises:
            TeacherError: an output is not finite, or the crops are not of the views.
        """
        total = sum(teacher.weight for teacher in self.teachers)
        logits = [t.logits(self._for(t, crops), autocast=autocast) for t in self.teachers]
        shares = [
            torch.softmax(of_one / (teacher.temperature * temperature), dim=1)
            * (teacher.weight / total)
            for teacher, of_one in zip(self.teachers, logits, strict=True)
        ]
        return Answer(sum(shares[1:], start=shares[0]), torch.stack(logits).mean(0))

    def each(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """Every teacher's own probabilities, float32 (B, T, C); errors as `answer`."""
        probabilities = [
            t.probabilities(self._for(t, crops), autocast=autocast) for t in self.teachers
        ]
        return torch.stack(probabilities, dim=1)

    def logits(self, crops: Sequence[Tensor], *, autocast: Autocast | None = None) -> Tensor:
        """Logits of a single teacher, float32 (B, C); arguments and errors as `probabilities`.

        Raises:
            ConfigError: there are several teachers; their logits have no common scale.
        """
        if len(self.teachers) > 1:
            raise ConfigError(
                f"logits of {len(self.teachers)} teachers cannot be averaged; use one teacher, or "
                "a codec of probabilities"
            )
        teacher = self.teachers[0]
        return teacher.logits(self._for(teacher, crops), autocast=autocast)

    def identity(self) -> list[dict[str, Any]]:
        """What the outputs depend on besides `class_names`, one JSON object per teacher."""
        return [teacher.identity() for teacher in self.teachers]

    def _for(self, teacher: Teacher, crops: Sequence[Tensor]) -> Tensor:
        return crops[self.views.index(teacher.view)]
