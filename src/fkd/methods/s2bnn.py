"""S2-BNN: a student learns the embeddings of a frozen self-supervised teacher, or its own.

    s2bnn        L_KD           guided distribution calibration against an online teacher
    s2bnn-both   L_KD + L_NCE   and contrastive learning beside it
    moco         L_NCE          contrastive learning alone: MoCo V2

    L_KD  = - sum_k softmax(t / tau)_k log softmax(s / tau)_k
    L_NCE = - log of e^(q k / tau) / (e^(q k / tau) + sum over the queue of e^(q k' / tau))

Teacher and student see the same crops. A student's embedding q is compared with the key k that a
slowly moving copy of it gives for the other crop of the same image, and with a queue of keys of
other images. FKD-SSL is `s2bnn` with stored embeddings in the place of the teacher, and has the
same loss function.

Source: Shen et al., "S2-BNN: Bridging the Gap Between Self-Supervised Real and 1-bit Neural
Networks via Guided Distribution Calibration", CVPR 2021; Chen et al., "Improved Baselines with
Momentum Contrastive Learning", 2020 (MoCo V2).
Differs: each of the two crops is a query once, with the other one as its key; the authors' query is
always the first. So an epoch, which counts crops, has one query of every image in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fkd.checks import require_in, require_positive, require_whole
from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.errors import ConfigError
from fkd.labels.embedding_losses import contrastive_loss
from fkd.methods.embeddings import EmbeddingLoss, EmbeddingTargets
from fkd.methods.method import CropSourceKind, Method, MethodInputs, Outputs, class_logits
from fkd.methods.momentum import MomentumQueue
from fkd.methods.online import OnlineTeacher


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Contrastive learning with a queue, of s2bnn-both and moco.

    Attributes:
        temperature: tau of L_NCE.
        queue_length: keys of earlier steps that a crop is compared with.
        momentum: share of itself that the copy of the student keeps at a step.
        dim: width of the embeddings of moco, which has no teacher to match.
    """

    temperature: float = 0.2
    queue_length: int = 65536
    momentum: float = 0.999
    dim: int = 128

    def __post_init__(self) -> None:
        require_positive("contrast.temperature", self.temperature)
        for name in ("queue_length", "dim"):
            require_whole(1, f"contrast.{name}", getattr(self, name))
        require_in("[0, 1)", "contrast.momentum", self.momentum)


class S2BNN(Method):
    """Guided distribution calibration: the teacher's embedding is the only target."""

    summary: ClassVar[str] = "S2-BNN: embeddings of an online self-supervised teacher"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True
    options: ClassVar[str | None] = "ssl"
    learns_embeddings: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        _require_embeddings(inputs)
        self._teacher = OnlineTeacher(inputs)
        self.formats: tuple[InputSpec, ...] = self._teacher.formats
        self._loss = EmbeddingLoss(inputs.options)

    def prepare_student(self, student: nn.Module) -> None:
        """The loss must know what its head gives."""
        self._loss.prepare(student)

    def targets(self, batch: Batch) -> EmbeddingTargets:
        """The teacher's embeddings of the same crops, mixed ones included."""
        return EmbeddingTargets(self._teacher.answer(batch.crops).logits)

    def loss(self, outputs: Outputs, targets: EmbeddingTargets) -> Tensor:
        """L_KD."""
        return self._loss(class_logits(outputs), targets)


class MoCo(Method):
    """Contrastive learning alone; its targets are the keys (B, D) of the other crops."""

    summary: ClassVar[str] = "MoCo V2: two crops of an image against a queue, without a teacher"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    uses: ClassVar[frozenset[str]] = frozenset({"contrast"})
    needs_pairs: ClassVar[bool] = True
    learns_embeddings: ClassVar[bool] = True
    auxiliary_model: MomentumQueue | None = None

    def __init__(self, inputs: MethodInputs) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self._inputs = inputs
        self._student: nn.Module | None = None

    def prepare_student(self, student: nn.Module) -> None:
        """Copies it."""
        settings = self._inputs.contrast
        self._student = student
        self.auxiliary_model = MomentumQueue(
            student, self._inputs.num_classes, settings.queue_length, settings.momentum
        )

    def targets(self, batch: Batch) -> Tensor:
        """For each crop the key of the other crop of its image."""
        assert self.auxiliary_model is not None
        return swap_pairs(self.auxiliary_model(self._inputs.normalize(batch.crops[0])))

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """L_NCE."""
        assert self.auxiliary_model is not None
        queries, queue = F.normalize(class_logits(outputs).float()), self.auxiliary_model.queue
        return contrastive_loss(queries, targets, queue, self._inputs.contrast.temperature).mean()

    def after_step(self, counted: Sequence[bool]) -> None:
        """The copy follows the student, the queue gets the keys of the step."""
        assert self.auxiliary_model is not None
        assert self._student is not None
        self.auxiliary_model.step(self._student, counted)


class BothTargets(NamedTuple):
    """What B crops are compared with: the teacher's embeddings, and keys (B, D)."""

    teacher: EmbeddingTargets
    keys: Tensor


class S2BNNBoth(Method):
    """Guided distribution calibration and contrastive learning, with equal weights."""

    summary: ClassVar[str] = "S2-BNN, and contrastive learning with a queue beside it"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True
    options: ClassVar[str | None] = "ssl"
    uses: ClassVar[frozenset[str]] = frozenset({"contrast"})
    needs_pairs: ClassVar[bool] = True
    learns_embeddings: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        self._distillation, self._contrast = S2BNN(inputs), MoCo(inputs)
        self.formats: tuple[InputSpec, ...] = self._distillation.formats

    def prepare_student(self, student: nn.Module) -> None:
        """As both parts do."""
        self._distillation.prepare_student(student)
        self._contrast.prepare_student(student)
        self.auxiliary_model = self._contrast.auxiliary_model

    def targets(self, batch: Batch) -> BothTargets:
        """Those of both parts."""
        return BothTargets(self._distillation.targets(batch), self._contrast.targets(batch))

    def loss(self, outputs: Outputs, targets: BothTargets) -> Tensor:
        """L_KD + L_NCE."""
        distillation = self._distillation.loss(outputs, targets.teacher)
        return distillation + self._contrast.loss(outputs, targets.keys)

    def after_step(self, counted: Sequence[bool]) -> None:
        """As in contrastive learning alone."""
        self._contrast.after_step(counted)


def swap_pairs(rows: Tensor) -> Tensor:
    """Rows (B, D) of crops, two of each image after another: each gets that of its partner."""
    return rows.reshape(-1, 2, *rows.shape[1:]).flip(1).reshape(rows.shape)


def _require_embeddings(inputs: MethodInputs) -> None:
    """Refuse teachers and losses that an online method of embeddings cannot use."""
    assert inputs.teacher is not None
    teachers = inputs.teacher.teachers
    if len(teachers) > 1:
        raise ConfigError(
            f"teachers: embeddings of {len(teachers)} teachers have no common meaning; name one"
        )
    if inputs.teacher.is_classifier:
        raise ConfigError(
            f"teacher.name: {teachers[0].name} gives class scores, and S2-BNN needs embeddings; "
            "add --teacher.output features, or name a network like moco_v2_resnet50"
        )
    if inputs.options.loss == "bank":
        raise ConfigError(
            "ssl.loss bank: only method fkd-ssl draws a bank, from the embeddings of its store; "
            "use dims or cosine with an online teacher"
        )
