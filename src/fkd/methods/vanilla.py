"""Plain training: random crops against the ground truth.

With several crops per image it is the paper's multi-crop baseline.
Source: FKD (Shen and Xing, ECCV 2022), Table 7, first row.
"""

from typing import ClassVar

from torch import Tensor

from fkd.data.batches import Batch, CropFormat
from fkd.losses import SoftTargetLoss
from fkd.methods.method import Ingredients, Method, Outputs, ViewKind, class_logits, true_labels
from fkd.targets import SoftTargets


class Vanilla(Method):
    """Fresh crops against one-hot classes."""

    summary: ClassVar[str] = "fresh random crops against the ground truth; no teacher"
    views: ClassVar[ViewKind] = "fresh"
    uses: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    needs_classes = True

    def __init__(self, ingredients: Ingredients) -> None:
        self.formats: tuple[CropFormat, ...] = (ingredients.student,)
        self._num_classes = ingredients.num_classes
        self._smoothing = ingredients.label_smoothing
        self._loss = SoftTargetLoss()

    def targets(self, batch: Batch) -> SoftTargets:
        """The class of each image, smoothed if asked for."""
        return true_labels(batch, self._num_classes, self._smoothing)

    def loss(self, outputs: Outputs, targets: SoftTargets) -> Tensor:
        """Cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), targets)
        return loss
