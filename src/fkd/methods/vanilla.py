"""Plain training: random crops against the ground truth.

With several crops per image it is the paper's multi-crop baseline.
Source: FKD (Shen and Xing, ECCV 2022), Table 7, first row.
"""

from typing import ClassVar

from torch import Tensor

from fkd.data.batches import Batch, CropFormat
from fkd.losses import SoftTargetLoss
from fkd.methods.method import Ingredients, ViewKind
from fkd.targets import SoftTargets


class Vanilla:
    """Fresh crops against one-hot classes."""

    summary: ClassVar[str] = "fresh random crops against the ground truth; no teacher"
    views: ClassVar[ViewKind] = "fresh"
    asks_teacher: ClassVar[bool] = False

    def __init__(self, ingredients: Ingredients) -> None:
        self.formats: tuple[CropFormat, ...] = (ingredients.student,)
        self.needs_classes = True
        self._num_classes = ingredients.num_classes
        self._smoothing = ingredients.label_smoothing
        self._loss = SoftTargetLoss(ingredients.temperature)

    def targets(self, batch: Batch) -> SoftTargets:
        """The class of each image, smoothed if asked for."""
        return SoftTargets.one_hot(batch.labels, self._num_classes, self._smoothing)

    def loss(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """Cross-entropy."""
        loss: Tensor = self._loss(logits, targets)
        return loss
