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

    def can_keep(self, num_images: int) -> bool:
        """Whether the logits of so many images fit into 2 GiB of memory."""
        return 4 * num_images * len(self.teacher.class_names) <= _MOST_BYTES

    def keep(self, of_set: str, rows: np.ndarray, logits: Sequence[Tensor]) -> None:
        """Keep the logits of images of a set, in ascending order, in the place of any others."""
        self._set, self._rows, self._kept = of_set, rows, torch.cat(list(logits))

    def scale(self, logits: Tensor, shared: SharedClasses) -> Tensor:
        """Its logits of the shared classes at its temperature, (n, shared)."""
        return logits[:, shared.teacher] / self.teacher.temperature


class ReferencePass:
    """The teacher's outputs batch by batch in one pass over images of a set.

    Attributes:
        needs_crops: whether it sees the images; not where all its outputs are kept.
    """

    def __init__(
        self, reference: Reference, of_set: str, rows: np.ndarray, *, keep: bool = False
    ) -> None:
        """Takes the images, in ascending order, and whether to keep the outputs for a next pass."""
        self._reference, self._set, self._rows = reference, of_set, rows
        self._kept = reference.kept(of_set, rows)
        self.needs_crops = self._kept is None
        self._keeps = keep and self.needs_crops and reference.can_keep(len(rows))
        self._seen: list[Tensor] = []

    def logits(self, crops: Tensor, rows: slice) -> Tensor:
        """Logits (B, C) of the next images, on any device.

        Args:
            crops: of these images at its preprocessing; any others where it needs none.
            rows: of these images.
        """
        if self._kept is not None:
            return self._kept[rows]
        logits = self._reference.teacher.logits(crops)
        if self._keeps:
            self._seen.append(logits.cpu())
        return logits

    def finish(self) -> None:
        """Keep the outputs of all images."""
        if self._keeps:
            self._reference.keep(self._set, self._rows, self._seen)


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
