"""What all methods have in common: what they are built from, and what they return."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from torch import Tensor, nn

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.losses import SoftTargetLoss
from fkd.labels.targets import SoftTargets
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.single_teacher import Activation

CropSourceKind = Literal["stored", "fresh"]
OF_EQUATION_1 = frozenset({"temperature", "soft_weight", "label_smoothing"})
"""Settings of a run that the loss of `PairedMethod` uses."""
OF_STORED_LABELS = frozenset({"label_temperature", "teacher_weights"})
"""Settings of a run that say how stored labels are decoded."""
Outputs: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Logits of the student; of its class token and its distillation token where it has both."""


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """What a method is built from; the settings have their defaults in `TrainConfig`.

    Attributes:
        num_classes: C; of methods that learn embeddings D, their width.
        student: how the student wants its crops.
        normalize: uint8 crops to the student's input.
        teacher: the online teacher, for methods that need one.
        bank: embeddings of other crops, float32 (N, D), for a loss that compares with them.
        temperature: of the softmax.
        soft_weight: lambda of Eq. 1, the weight of the soft label against the true class.
        label_smoothing: of the true class.
        options: of this method alone, such as a `DeitConfig`; None where it has none.
        contrast: of contrastive learning, a `ContrastConfig`.
        multi_label: whether each class has a probability of its own (sigmoids).
    """

    num_classes: int
    student: InputSpec
    normalize: Callable[[Tensor], Tensor]
    teacher: TeacherEnsemble | None
    temperature: float
    soft_weight: float
    label_smoothing: float
    options: Any
    contrast: Any = None
    bank: Tensor | None = None
    multi_label: bool = False

    @property
    def activation(self) -> Activation:
        """What makes probabilities of an online teacher's logits."""
        return "sigmoid" if self.multi_label else "softmax"


class Method(Protocol):
    """Crop source, targets, loss; methods inherit the defaults below.

    Attributes:
        summary: one line for --help.
        crop_source: where the crops come from by default.
        needs_teacher: whether it needs an online teacher.
        reads_maps: whether its fresh crops get labels from a store of label maps.
        uses: which of the settings of several methods it uses; others are refused.
        options: the setting of this method alone, passed as `MethodInputs.options`; None for none.
        needs_mixing: whether it is this method only with mixed crops.
        needs_pairs: whether every access to an image must give two crops.
        needs_classes: whether every image must have a true class.
        learns_embeddings: whether the student gives embeddings, by a head, and not classes.
        learns_multi_label: whether it can learn several classes of an image.
        formats: how crops are cut for it, the student's first.
        auxiliary_model: a network of its own that is trained beside the student.
    """

    summary: ClassVar[str]
    crop_source: ClassVar[CropSourceKind]
    needs_teacher: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False
    uses: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[str | None] = None
    needs_mixing: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False
    needs_classes: bool = False
    learns_embeddings: ClassVar[bool] = False
    learns_multi_label: ClassVar[bool] = False
    formats: tuple[InputSpec, ...]
    auxiliary_model: nn.Module | None = None

    def __init__(self, inputs: MethodInputs) -> None: ...

    def prepare_student(self, student: nn.Module) -> None:
        """Called once before training; most methods leave the student as it is."""
        return

    def targets(self, batch: Batch) -> Any:
        """What the student is trained against, for `loss`; the batch is mixed already."""
        ...

    def loss(self, outputs: Outputs, targets: Any) -> Tensor:
        """The mean loss of the crops, a scalar."""
        ...

    def auxiliary_loss(self, outputs: Outputs, targets: Any) -> Tensor | None:
        """What is added to the loss: a scalar computed by `auxiliary_model`; None without one."""
        return None

    def after_step(self, counted: Sequence[bool]) -> None:
        """Called after every optimizer step; most methods have nothing to do then.

        Args:
            counted: of each batch whose `targets` were asked since the last step, whether it is
                part of the step; if not, it only kept a process busy.
        """
        return


class PairedTargets(NamedTuple):
    """The two labels of Eq. 1 for B crops.

    Attributes:
        soft: the teacher's.
        truth: the true classes; None where they have no weight.
    """

    soft: SoftTargets
    truth: SoftTargets | None


class PairedMethod(Method):
    """Base of the methods with the loss of Eq. 1, whose soft labels come with the batch.

    Args:
        inputs: what the method is built from.
        soft_scale: factor of the soft loss, besides `soft_weight`.
    """

    uses: ClassVar[frozenset[str]] = OF_EQUATION_1
    learns_multi_label: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs, soft_scale: float = 1.0) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self.needs_classes = inputs.soft_weight < 1.0
        self._inputs = inputs
        self._loss = SoftTargetLoss(inputs.temperature, inputs.soft_weight, soft_scale)

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """The stored labels, mixed like the crops."""
        assert isinstance(batch.targets, SoftTargets)
        return batch.label_mixed(batch.targets)

    def targets(self, batch: Batch) -> PairedTargets:
        """The soft labels, and the true ones where they have weight."""
        inputs, soft = self._inputs, self.soft_targets(batch)
        if inputs.soft_weight == 1.0:
            return PairedTargets(soft, None)
        return PairedTargets(soft, true_labels(batch, inputs.num_classes, inputs.label_smoothing))

    def loss(self, outputs: Outputs, targets: PairedTargets) -> Tensor:
        """The loss of sparse labels, and that of the true classes: soft cross-entropy, or of
        multi-label targets binary cross-entropy."""
        loss: Tensor = self._loss(class_logits(outputs), *targets)
        return loss


def class_logits(outputs: Outputs) -> Tensor:
    """Logits of the class token, of networks with a distillation token and of all others."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def true_labels(batch: Batch, num_classes: int, smoothing: float) -> SoftTargets:
    """The true classes of the crops of a batch, smoothed, and mixed like the crops: one-hot, or
    where images have several classes multi-hot."""
    if batch.classes is not None:
        truth = SoftTargets.multi_hot(batch.classes, num_classes, smoothing)
    else:
        truth = SoftTargets.one_hot(batch.labels, num_classes, smoothing)
    return batch.label_mixed(truth)
