"""The two labels of Eq. 1: what the teacher says, and the truth where it counts too."""

from typing import NamedTuple

from fkd.data.batches import Batch
from fkd.labels.targets import SoftTargets
from fkd.methods.method import MethodInputs, true_labels


class Blend(NamedTuple):
    """Labels of B crops.

    Attributes:
        soft: the teacher's.
        truth: the true classes; None where they have no weight.
    """

    soft: SoftTargets
    truth: SoftTargets | None


def blend(inputs: MethodInputs, batch: Batch, soft: SoftTargets) -> Blend:
    """The teacher's labels of a batch beside its true ones."""
    if inputs.soft_weight == 1.0:
        return Blend(soft, None)
    return Blend(soft, true_labels(batch, inputs.num_classes, inputs.label_smoothing))
