"""ReLabel: fresh crops against labels that are pooled from one map of labels of each image.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021); the baseline of FKD (Shen and Xing, ECCV
2022), Table 3. Pooling is done where batches are loaded: `fkd.data.maps`, `fkd.labels.pooling`.
"""

from typing import ClassVar

from torch import Tensor

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.pooling import fall_back
from fkd.methods.blend import Blend, blend
from fkd.methods.method import CropSourceKind, Method, MethodInputs, Outputs, class_logits


class ReLabel(Method):
    """Any crop against what the map says of its place."""

    summary: ClassVar[str] = "fresh random crops against label maps of the whole images"
    views: ClassVar[CropSourceKind] = "fresh"
    reads_maps: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "soft_weight", "label_smoothing", "relabel"}
    )

    def __init__(self, inputs: MethodInputs) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self.needs_classes = inputs.soft_weight < 1.0 or inputs.relabel.fallback > 0.0
        self._ingredients = inputs
        self._loss = SoftTargetLoss(inputs.temperature, inputs.soft_weight)

    def targets(self, batch: Batch) -> Blend:
        """What the map says; the true class where it is in doubt, if asked for."""
        assert batch.targets is not None
        pooling, targets = self._ingredients.relabel, batch.targets
        if pooling.fallback > 0.0:
            targets = fall_back(pooling, targets, batch.labels)
        return blend(self._ingredients, batch, batch.label_mixed(targets))

    def loss(self, outputs: Outputs, targets: Blend) -> Tensor:
        """Soft cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), *targets)
        return loss
