"""The teacher that models are compared with: which classes they share, and its outputs.

Both are taken to probabilities over the classes that both have, matched by name, whatever their
order: outputs of other classes are dropped before the softmax. Each sees the center crop of the
image that it was made for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.models.classes import match_classes
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig, load_teachers

_MOST_BYTES = 2**31  # of outputs that are kept for further models


@dataclass(frozen=True)
class SharedClasses:
    """The classes that a model and the teacher have in common, and that a set ranks.

    Attributes:
        model: columns of the model's outputs, int64 (n,).
        teacher: columns of the teacher's outputs for the same classes, int64 (n,).
    """

    model: Tensor
    teacher: Tensor

    def __len__(self) -> int:
        return len(self.model)

    def to(self, device: torch.device) -> "SharedClasses":
        """The same on another device."""
        return SharedClasses(self.model.to(device), self.teacher.to(device))


def share_classes(
    class_names: Sequence[str],
    ranked: np.ndarray | None,
    teacher_names: Sequence[str],
    owner: str,
) -> SharedClasses:
    """Match the classes of a model with those of the teacher, by name.

    All classes of the model are looked for as in labeling (`match_classes`): by name, WordNet id or
    its lemmas. Where the teacher lacks some, those with the same name in both are left.

    Args:
        class_names: of the model's outputs.
        ranked: its outputs that count, None for all.
        teacher_names: of the teacher's outputs.
        owner: the model, for messages.

    Raises:
        ConfigError: they share less than two classes.
    """
    columns = list(range(len(class_names))) if ranked is None else ranked.tolist()
    try:
        outputs = match_classes([class_names[column] for column in columns], teacher_names)
    except ConfigError as error:
        position = {name: i for i, name in enumerate(teacher_names)}
        columns = [column for column in columns if class_names[column] in position]
        outputs = [position[class_names[column]] for column in columns]
        if len(columns) < 2:
            raise ConfigError(f"teacher: it cannot be compared with {owner}: {error}") from error
    return SharedClasses(torch.tensor(columns), torch.tensor(outputs))


class Reference:
    """A teacher whose outputs for the images of a set are kept for the next model on the set.

    Attributes:
        teacher: a classifier, on the device of the models.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._rows = np.zeros(0, np.int64)
        self._kept: Tensor | None = None
        self._set: str | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its outputs depend on, in values of JSON."""
        return self.teacher.identity()

    @property
    def preprocessing(self) -> Preprocessing:
        """The input that it expects."""
        return self.teacher.preprocessing

    def kept(self, of_set: str, rows: np.ndarray) -> Tensor | None:
        """Logits float32 (n, C) of these images of a set from an earlier pass; None for unknown."""
        if self._kept is None or of_set != self._set or not np.isin(rows, self._rows).all():
            return None
        return self._kept[torch.from_numpy(np.searchsorted(self._rows, rows))]

    def keep(self, of_set: str, rows: np.ndarray, logits: Sequence[Tensor]) -> None:
        """Keep the logits of images of a set, in ascending order, in the place of any others."""
        self._set, self._rows = of_set, rows
        num_bytes = sum(part.numel() * part.element_size() for part in logits)
        self._kept = torch.cat(list(logits)) if logits and num_bytes <= _MOST_BYTES else None

    def scale(self, logits: Tensor, shared: SharedClasses) -> Tensor:
        """Its logits of the shared classes at its temperature, (n, shared)."""
        return logits[:, shared.teacher] / self.teacher.temperature


def load_reference(config: TeacherConfig, device: torch.device) -> Reference:
    """The teacher that a configuration describes.

    Raises:
        ConfigError: there is no such teacher, or it has no classes.
    """
    teacher = load_teachers([config], device=device).teachers[0]
    if not teacher.is_classifier:
        raise ConfigError(
            f"teacher.output: {teacher.name} gives {teacher.output}, which are no classes to agree "
            "on; use a teacher with a classifier (--teacher.output logits)"
        )
    return Reference(teacher)
