"""FKD-SSL: crops and embeddings of a teacher that knows no classes, both from the label store.

    L = - sum_k softmax(t / tau)_k log softmax(s / tau)_k,      t the stored embedding

One student sees each crop once: no second view, no momentum encoder, no queue.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.4 and Table 9.
Differs: other losses between embeddings can be chosen (`SslConfig`).
"""

from typing import ClassVar

from torch import Tensor, nn

from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch
from fkd.labels.embeddings import Embeddings
from fkd.methods.embeddings import EmbeddingLoss, EmbeddingTargets
from fkd.methods.method import CropSourceKind, Method, MethodInputs, Outputs, class_logits


class FkdSsl(Method):
    """Replay the teacher's crops against the embeddings it gave them."""

    summary: ClassVar[str] = "crops and embeddings from a store of features, without a teacher"
    crop_source: ClassVar[CropSourceKind] = "stored"
    options: ClassVar[str | None] = "ssl"
    learns_embeddings: ClassVar[bool] = True

    def __init__(self, inputs: MethodInputs) -> None:
        self.formats: tuple[InputSpec, ...] = (inputs.student,)
        self._loss = EmbeddingLoss(inputs.options, inputs.bank)

    def prepare_student(self, student: nn.Module) -> None:
        """Only the loss must know what its head gives."""
        self._loss.prepare(student)

    def targets(self, batch: Batch) -> EmbeddingTargets:
        """The stored embeddings; of a mixed crop, those of both parts."""
        assert isinstance(batch.targets, Embeddings)
        own, mix = batch.targets.values, batch.mix
        if mix is None:
            return EmbeddingTargets(own)
        return EmbeddingTargets(own, own[mix.partner.to(own.device)], mix.share)

    def loss(self, outputs: Outputs, targets: EmbeddingTargets) -> Tensor:
        """The loss of the settings."""
        return self._loss(class_logits(outputs), targets)
