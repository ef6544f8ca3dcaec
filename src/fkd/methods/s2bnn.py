"""S2-BNN: a student learns the embeddings of a frozen self-supervised teacher, or its own.

    s2bnn        L_KD           guided distribution calibration: `dims_loss` against the teacher
    s2bnn-both   L_KD + L_NCE   and contrastive learning beside it
    moco         L_NCE          contrastive learning alone: MoCo V2

    L_KD  = - sum_k softmax(t / tau)_k log softmax(s / tau)_k
    L_NCE = - log of e^(q k / tau) / (e^(q k / tau) + sum over the queue of e^(q k' / tau))

Teacher and student see the same crops. A student's embedding q is compared with the key k that a
slowly moving copy of it gives for the other crop of the same image, and with a queue of keys of
other images. FKD-SSL is `s2bnn` with stored embeddings in the place of the teacher.

Source: Shen et al., "S2-BNN: Bridging the Gap Between Self-Supervised Real and 1-bit Neural
Networks via Guided Distribution Calibration", CVPR 2021; Chen et al., "Improved Baselines with
Momentum Contrastive Learning", 2020 (MoCo V2).
Differs: each of the two crops is a query once, with the other one as its key; the authors' query is
always the first. So an epoch, which counts crops, has one query of every image in both.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fkd.checks import require_in, require_positive, require_whole
from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.errors import ConfigError
from fkd.labels.embedding_losses import contrastive_loss, dims_loss
from fkd.methods.method import CropSourceKind, Method, MethodInputs, Outputs, class_logits
from fkd.methods.momentum import MomentumQueue
from fkd.methods.online import OnlineTeacher

OF_CONTRAST = frozenset({"queue_length", "momentum"})
"""Settings of S2-BNN that only the methods with pairs of crops use."""


@dataclass(frozen=True, kw_only=True)
class S2BNNConfig:
    """S2-BNN and MoCo V2.

    Attributes:
        temperature: tau, of all softmaxes; 0.2 in the papers, 0.1 for a teacher like SwAV.
        queue_length: keys of earlier steps that a crop is compared with; of s2bnn-both and moco.
        momentum: share of itself that the copy of the student keeps at a step; of the same.
    """

    temperature: float = 0.2
    queue_length: int = 65536
    momentum: float = 0.999

    def __post_init__(self) -> None:
        require_positive("s2bnn.temperature", self.temperature)
        require_whole(1, "s2bnn.queue_length", self.queue_length)
        require_in("[0, 1)", "s2bnn.momentum", self.momentum)


class S2BNNTargets(NamedTuple):
    """What B crops are compared with.

    Attributes:
        teacher: its embeddings, float32 (B, D); None without a teacher.
        keys: unit vectors (B, D), of the other crop of the same image; None without pairs.
    """

    teacher: Tensor | None
    keys: Tensor | None


class S2BNN(Method):
    """Guided distribution calibration: the teacher's embedding is the only target."""

    summary: ClassVar[str] = "S2-BNN: embeddings of an online self-supervised teacher"
    crop_source: ClassVar[CropSourceKind] = "fresh"
    needs_teacher: ClassVar[bool] = True
    options: ClassVar[str | None] = "s2bnn"

    def __init__(self, inputs: MethodInputs) -> None:
        self._inputs = inputs
        self._options: S2BNNConfig = inputs.options
        self._teacher = None
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        if self.needs_teacher:
            _require_embeddings(inputs)
            self._teacher = OnlineTeacher(inputs)
            self.formats = self._teacher.formats

    def targets(self, batch: Batch) -> S2BNNTargets:
        """The teacher's embeddings of the same crops."""
        teacher = None if self._teacher is None else self._teacher.answer(batch.crops).logits
        return S2BNNTargets(teacher, None)

    def loss(self, outputs: Outputs, targets: S2BNNTargets) -> Tensor:
        """L_KD."""
        assert targets.teacher is not None
        embeddings = class_logits(outputs)
        return dims_loss(embeddings, targets.teacher, self._options.temperature).mean()


class S2BNNBoth(S2BNN):
    """Guided distribution calibration and contrastive learning, with equal weights."""

    summary: ClassVar[str] = "S2-BNN, and contrastive learning with a queue beside it"
    needs_pairs: ClassVar[bool] = True
    auxiliary_model: MomentumQueue | None = None

    def prepare_student(self, student: nn.Module) -> None:
        """Copies it."""
        options = self._options
        self._student = student
        self.auxiliary_model = MomentumQueue(
            student, self._inputs.num_classes, options.queue_length, options.momentum
        )

    def targets(self, batch: Batch) -> S2BNNTargets:
        """The teacher's embeddings, and the keys of the other crops."""
        assert self.auxiliary_model is not None
        keys = self.auxiliary_model(self._inputs.normalize(batch.crops[0]))
        return super().targets(batch)._replace(keys=swap_pairs(keys))

    def loss(self, outputs: Outputs, targets: S2BNNTargets) -> Tensor:
        """L_KD + L_NCE."""
        return super().loss(outputs, targets) + self._contrastive_loss(outputs, targets)

    def after_step(self, counted: list[bool]) -> None:
        """The copy follows the student, the queue gets the keys of the step."""
        assert self.auxiliary_model is not None
        self.auxiliary_model.step(self._student, counted)

    def _contrastive_loss(self, outputs: Outputs, targets: S2BNNTargets) -> Tensor:
        assert self.auxiliary_model is not None
        assert targets.keys is not None
        queries, queue = (
            F.normalize(class_logits(outputs).float(), dim=1),
            self.auxiliary_model.queue,
        )
        temperature = self._options.temperature
        return contrastive_loss(queries, targets.keys, queue, temperature).mean()


class MoCo(S2BNNBoth):
    """Contrastive learning alone."""

    summary: ClassVar[str] = "MoCo V2: two crops of an image against a queue, without a teacher"
    needs_teacher: ClassVar[bool] = False

    def loss(self, outputs: Outputs, targets: S2BNNTargets) -> Tensor:
        """L_NCE."""
        return self._contrastive_loss(outputs, targets)


def swap_pairs(rows: Tensor) -> Tensor:
    """Rows (B, D) of crops, two of each image after another: each gets that of its partner."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _require_embeddings(inputs: MethodInputs) -> None:
    assert inputs.teacher is not None
    teachers = inputs.teacher.teachers
    if len(teachers) > 1:
        raise ConfigError(
            f"teachers: embeddings of {len(teachers)} teachers have no common meaning; name one"
        )
    if not inputs.teacher.is_classifier:
        return
    raise ConfigError(
        f"teacher.name: {teachers[0].name} gives class scores, and S2-BNN needs embeddings; add "
        "--teacher.output features, or name a network like moco_v2_resnet50"
    )
