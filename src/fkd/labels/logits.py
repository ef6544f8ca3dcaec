"""What losses between logits and sparse targets have in common: checks and precision."""

import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.labels.embeddings import Embeddings
from fkd.labels.targets import SoftTargets


def scale_logits(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature; no copy where there is nothing to do.

    Half precision becomes float32, since it loses sums over the classes; float64 stays, for tests.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits if temperature == 1.0 else logits / temperature


def require_targets(logits: Tensor, targets: SoftTargets, *, multi_label: bool) -> None:
    """Refuse targets that a loss is not for.

    Args:
        logits: of the student, (B, C).
        targets: of the same crops.
        multi_label: whether the loss takes every class by itself.

    Raises:
        ConfigError: they are embeddings, of another number of classes, or of the other kind.
    """
    given: object = targets  # an item of `MultiCropDataset` has either
    if isinstance(given, Embeddings):
        raise ConfigError(
            f"{targets} are no soft labels and have no classes; compare their values with what the "
            "student gives, e.g. by their cosine"
        )
    if targets.multi_label and not multi_label:
        raise ConfigError(
            f"{targets} have a probability of each class by itself (sigmoid), which a softmax does "
            "not learn; use SoftTargetLoss or soft_binary_cross_entropy"
        )
    if multi_label and not targets.multi_label:
        raise ConfigError(
            f"{targets} share one probability among the classes (softmax), which a sigmoid of each "
            "class does not learn; use SoftTargetLoss or soft_cross_entropy"
        )
    if logits.shape[1] != targets.num_classes:
        raise ConfigError(
            f"the student gives {logits.shape[1]} classes but the labels have "
            f"{targets.num_classes}; build the student with num_classes={targets.num_classes}"
        )
