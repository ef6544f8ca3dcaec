"""What all methods have in common: what they are made of, and what they answer."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from fkd.data.batches import Batch, CropFormat
from fkd.models.teacher import TeacherEnsemble
from fkd.targets import SoftTargets

ViewKind = Literal["stored", "fresh"]


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What a method may be made of.

    Attributes:
        num_classes: C.
        student: how the student wants its crops.
        temperature: of the student's softmax.
        soft_weight: lambda of Eq. 1, the weight of the soft label against the ground truth.
        label_smoothing: of the ground truth, where that is the target.
        teacher: asked online, by the methods that need one.
    """

    num_classes: int
    student: CropFormat
    temperature: float = 1.0
    soft_weight: float = 1.0
    label_smoothing: float = 0.0
    teacher: TeacherEnsemble | None = None


class Method(Protocol):
    """Views, targets, loss.

    Attributes:
        summary: one line for --help.
        views: where the crops come from unless the user says otherwise.
        asks_teacher: whether it needs a teacher while training.
        needs_classes: whether every image must have a true class.
        formats: how crops are cut for it, the student's first.
    """

    summary: ClassVar[str]
    views: ClassVar[ViewKind]
    asks_teacher: ClassVar[bool]
    needs_classes: bool
    formats: tuple[CropFormat, ...]

    def __init__(self, ingredients: Ingredients) -> None: ...

    def targets(self, batch: Batch) -> SoftTargets:
        """What the student is trained against."""
        ...

    def loss(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """The mean loss of the crops, a scalar."""
        ...
