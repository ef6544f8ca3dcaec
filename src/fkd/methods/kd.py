"""Vanilla knowledge distillation: a teacher is asked online, on the very crops of the student.

Source: FKD (Shen and Xing, ECCV 2022), Eq. 1 and Fig. 5 (left); Hinton et al. 2015.
Every network gets the same boxes and flips, cut at its own size from the decoded image.
"""

from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from fkd.crops import Interpolation
from fkd.data.batches import Batch, CropFormat
from fkd.losses import SoftTargetLoss
from fkd.methods.method import Ingredients, ViewKind
from fkd.targets import SoftTargets

# Crops that a CPU passes through a teacher at a time, so that its layers stay in the cache. Crops a
# second, EfficientNet-Lite0 on 2 cores, in chunks of 4, 8, 16, 32 and 256 (the whole batch): 141,
# 148, 160, 160, 43 with freed memory kept (fkd.cli.process), 134, 111, 114, 90, 35 without.
_CHUNK = 16


class KD:
    """Ask the teacher about every crop, every time."""

    summary: ClassVar[str] = "fresh random crops against a teacher that is asked online"
    views: ClassVar[ViewKind] = "fresh"
    asks_teacher: ClassVar[bool] = True

    def __init__(self, ingredients: Ingredients) -> None:
        assert ingredients.teacher is not None
        self._teacher = ingredients.teacher
        wanted = [CropFormat(size, cast(Interpolation, how)) for size, how in self._teacher.views]
        self.formats: tuple[CropFormat, ...] = tuple(dict.fromkeys([ingredients.student, *wanted]))
        self.needs_classes = ingredients.soft_weight < 1.0
        self._of_teacher = [self.formats.index(view) for view in wanted]
        self._loss = SoftTargetLoss(ingredients.temperature, ingredients.soft_weight)

    @torch.no_grad()
    def targets(self, batch: Batch) -> SoftTargets:
        """What the teacher says now."""
        crops = [batch.crops[i] for i in self._of_teacher]
        size = _CHUNK if crops[0].device.type == "cpu" else len(crops[0])
        chunks = zip(*(torch.split(views, size) for views in crops), strict=True)
        answers = torch.cat([self._teacher.probabilities(chunk) for chunk in chunks])
        return replace(SoftTargets.full(answers), labels=batch.labels)

    def loss(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """Eq. 1: lambda of soft cross-entropy, the rest of ordinary cross-entropy."""
        loss: Tensor = self._loss(logits, targets)
        return loss
