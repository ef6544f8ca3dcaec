"""Settings and loss of methods whose students learn embeddings instead of classes."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fkd.checks import refuse_unused, require_one_of, require_positive, require_whole
from fkd.labels.embedding_losses import bank_loss, cosine_loss, dims_loss
from fkd.models.architectures.embedders import Embedder, PrototypeHead

LossName = Literal["dims", "cosine", "bank"]
_UNUSED: dict[str, set[str]] = {
    "dims": {"teacher_temperature", "bank_size"},
    "cosine": {"temperature", "teacher_temperature", "bank_size"},
    "bank": set(),
}


@dataclass(frozen=True, kw_only=True)
class SslConfig:
    """How a student's embeddings are compared with a teacher's.

    Attributes:
        loss: dims (softmax over the dimensions, as in S2-BNN; for heads like MoCo's or SwAV's),
            cosine, or bank (softmax over the cosines with some of the teacher's embeddings of other
            crops, so that the same crops are neighbors); the last two are for any features.
        temperature: of both softmaxes of dims (0.2 in S2-BNN, 0.1 suits prototypes), and of the
            student's of bank.
        teacher_temperature: of the teacher's softmax of bank.
        bank_size: rows of the bank, drawn from the store once for the whole run.
    """

    loss: LossName = "dims"
    temperature: float = 0.2
    teacher_temperature: float = 0.07
    bank_size: int = 4096

    def __post_init__(self) -> None:
        require_one_of(LossName, "ssl.loss", self.loss)
        require_positive("ssl.temperature", self.temperature)
        require_positive("ssl.teacher_temperature", self.teacher_temperature)
        require_whole(2, "ssl.bank_size", self.bank_size)
        refuse_unused(self, _UNUSED[self.loss], prefix="ssl.", user=f"loss {self.loss}")


class EmbeddingTargets(NamedTuple):
    """What B crops are trained against.

    Attributes:
        own: the teacher's embedding of each crop, float32 (B, D).
        partner: that of the crop it is mixed with, likewise; None without mixing.
        share: what each crop keeps of itself.
    """

    own: Tensor
    partner: Tensor | None = None
    share: float = 1.0


class EmbeddingLoss:
    """The loss of a setting.

    A crop that is mixed with another is trained against both of their embeddings, in the shares
    that it has of them. For dims and bank, which are linear in the teacher's softmax, that is the
    mixture of labels that is usual for classes.

    Args:
        config: of the loss.
        bank: embeddings of the teacher (N, D), for the loss bank.
    """

    def __init__(self, config: SslConfig, bank: Tensor | None = None) -> None:
        self._config = config
        self._bank = bank
        self._scales = True

    def prepare(self, student: nn.Module) -> None:
        """Learn what the student's embeddings are.

        The loss dims compares unit vectors. Only cosines with prototypes are compared as they are:
        they have a common scale already.
        """
        self._scales = not (
            isinstance(student, Embedder) and isinstance(student.head, PrototypeHead)
        )

    def __call__(self, student: Tensor, targets: EmbeddingTargets) -> Tensor:
        """The mean loss of B crops with the student's embeddings (B, D)."""
        loss = self._of_each(student, targets.own)
        if targets.partner is not None:
            other = self._of_each(student, targets.partner)
            loss = targets.share * loss + (1.0 - targets.share) * other
        return loss.mean()

    def _of_each(self, student: Tensor, teacher: Tensor) -> Tensor:
        config = self._config
        if config.loss == "cosine":
            return cosine_loss(student, teacher)
        if config.loss == "bank":
            assert self._bank is not None
            temperatures = config.temperature, config.teacher_temperature
            self._bank = self._bank.to(student.device)
            return bank_loss(student, teacher, self._bank, *temperatures)
        if self._scales:
            student, teacher = (F.normalize(rows.float(), dim=1) for rows in (student, teacher))
        return dims_loss(student, teacher, config.temperature)
