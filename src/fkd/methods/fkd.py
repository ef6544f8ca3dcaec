"""Fast knowledge distillation: crops and soft labels both come from the label store.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3 and Fig. 5 (right).
"""

from typing import ClassVar

from torch import Tensor

from fkd.data.batches import Batch, CropFormat
from fkd.losses import SoftTargetLoss
from fkd.methods.method import Ingredients, ViewKind
from fkd.targets import SoftTargets


class FKD:
    """Replay the teacher's crops against the labels it gave them."""

    summary: ClassVar[str] = "crops and soft labels from a label store; the teacher rests"
    views: ClassVar[ViewKind] = "stored"
    asks_teacher: ClassVar[bool] = False

    def __init__(self, ingredients: Ingredients) -> None:
        self.formats: tuple[CropFormat, ...] = (ingredients.student,)
        self.needs_classes = ingredients.soft_weight < 1.0
        self._loss = SoftTargetLoss(ingredients.temperature, ingredients.soft_weight)

    def targets(self, batch: Batch) -> SoftTargets:
        """What the teacher said when the store was made."""
        assert batch.targets is not None
        return batch.targets

    def loss(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """Soft cross-entropy, straight from the sparse labels."""
        loss: Tensor = self._loss(logits, targets)
        return loss
