"""What all methods have in common: what they are made of, and what they answer."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from torch import Tensor, nn

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.pooling import PoolingConfig
from fkd.labels.targets import SoftTargets
from fkd.methods.options import DeitConfig, MealV2Config
from fkd.models.teacher import TeacherEnsemble

CropSourceKind = Literal["stored", "fresh"]
OF_STORED_LABELS = frozenset({"label_temperature", "teacher_weights", "calibration"})
"""Settings of a run that say how stored labels are decoded, and which are trusted."""
Outputs: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Logits of the student; of its class token and its distillation token where it has both."""


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """What a method may be made of.

    Attributes:
        num_classes: C.
        student: how the student wants its crops.
        temperature: of the softmax.
        soft_weight: lambda of Eq. 1, the weight of the soft label against the ground truth.
        label_smoothing: of the ground truth.
        teacher: asked online, by the methods that need one.
        deit: of DeiT distillation.
        mealv2: of MEAL V2.
        relabel: of ReLabel.
    """

    num_classes: int
    student: InputSpec
    temperature: float = 1.0
    soft_weight: float = 1.0
    label_smoothing: float = 0.0
    teacher: TeacherEnsemble | None = None
    deit: DeitConfig = field(default_factory=DeitConfig)
    mealv2: MealV2Config = field(default_factory=MealV2Config)
    relabel: PoolingConfig = field(default_factory=PoolingConfig)


class Method(Protocol):
    """CropSource, targets, loss; methods inherit what is said here unless they say otherwise.

    Attributes:
        summary: one line for --help.
        views: where the crops come from unless the user says otherwise.
        asks_teacher: whether it needs a teacher while training.
        reads_maps: whether its fresh crops get labels from a store of label maps.
        uses: which of the optional settings of a run it looks at; others are refused.
        needs_mixing: whether it is this method only with mixed crops.
        needs_classes: whether every image must have a true class.
        formats: how crops are cut for it, the student's first.
        auxiliary_model: a network of its own that learns beside the student.
    """

    summary: ClassVar[str]
    views: ClassVar[CropSourceKind]
    asks_teacher: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False
    uses: ClassVar[frozenset[str]] = frozenset()
    needs_mixing: ClassVar[bool] = False
    needs_classes: bool = False
    formats: tuple[InputSpec, ...]
    auxiliary_model: nn.Module | None = None

    def __init__(self, inputs: MethodInputs) -> None: ...

    def begin(self, student: nn.Module) -> None:
        """Told once, before training, which network will learn; most methods need not know."""
        return

    def targets(self, batch: Batch) -> Any:
        """What the student is trained against, for `loss`; the batch is mixed already."""
        ...

    def loss(self, outputs: Outputs, targets: Any) -> Tensor:
        """The mean loss of the crops, a scalar."""
        ...


def class_logits(outputs: Outputs) -> Tensor:
    """Logits of the class token, of networks with a distillation token and of all others."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def true_labels(batch: Batch, num_classes: int, smoothing: float = 0.0) -> SoftTargets:
    """The ground truth of the crops as they are now: one-hot, smoothed and mixed as they are."""
    return batch.label_mixed(SoftTargets.one_hot(batch.labels, num_classes, smoothing))
