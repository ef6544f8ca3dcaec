"""Binary cross-entropy of every class straight from sparse targets, with its own backward.

For logits z of C classes, student temperature t and u = z / t, a target
q_c = tail + sum_k weight_k [c = index_k], where each class has a probability of its own, and

    L(z, q)  = 1 / C sum_c [softplus(u_c) - q_c u_c]
             = 1 / C [sum_c softplus(u_c) - sum_k weight_k u_k - tail sum_c u_c]
    dL/dz_c  = (sigmoid(u_c) - q_c) / (C t)

so no (B, C) target is ever formed. Between the passes nothing of size (B, C) is kept but the logits
(and u, where t is not 1, is computed again); the backward pass writes its gradient over
sigmoid(u).

The loss is linear in q. So a crop's loss against the mean of the probabilities of classes that were
left out (`fkd.labels.sigmoid_codecs`) is the one against all of them, up to how much their logits
differ.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fkd.checks import require_one_of
from fkd.labels.logits import require_targets, scale_logits
from fkd.labels.targets import SoftTargets

ClassReduction = Literal["mean", "sum"]


class _SoftBinaryCrossEntropy(torch.autograd.Function):
    """Summed over the classes; `index` None means that `weight` covers all classes."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        index: Tensor | None,
        weight: Tensor,
        tail: Tensor,
        temperature: float,
    ) -> Tensor:
        scaled = scale_logits(logits, temperature)
        weight, tail = weight.to(scaled.dtype), tail.to(scaled.dtype)
        kept = scaled if index is None else scaled.gather(1, index)
        ctx.temperature = temperature
        ctx.save_for_backward(logits, index, weight, tail)
        return F.softplus(scaled).sum(1) - (weight * kept).sum(1) - tail * scaled.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, index, weight, tail = ctx.saved_tensors
        scale = (grad_loss / ctx.temperature)[:, None]
        grad_logits = torch.sigmoid(scale_logits(logits, ctx.temperature))
        grad_logits.sub_(tail[:, None])
        if index is None:
            grad_logits.sub_(weight)
        else:
            grad_logits.scatter_add_(1, index, -weight)
        return grad_logits.mul_(scale).to(logits.dtype), None, None, None, None


def soft_binary_cross_entropy(
    logits: Tensor,
    targets: SoftTargets,
    temperature: float = 1.0,
    reduction: ClassReduction = "mean",
) -> Tensor:
    """Binary cross-entropy of each crop in nats, (B,), differentiable in `logits` (B, C).

    Its mean over the crops is `F.binary_cross_entropy_with_logits(logits, targets.dense())`.

    Args:
        logits: of the student.
        targets: each class with a probability of its own (`targets.multi_label`).
        temperature: of the student's sigmoids.
        reduction: over the classes of a crop.

    Raises:
        ConfigError: the targets are of a softmax, or have another number of classes.

    Example:
        >>> import torch
        >>> from fkd import SoftTargets, soft_binary_cross_entropy
        >>> classes = torch.tensor([[0, 2], [1, -1]])  # the first crop has two classes
        >>> targets = SoftTargets.multi_hot(classes, num_classes=3)
        >>> soft_binary_cross_entropy(torch.zeros(2, 3), targets)
        tensor([0.6931, 0.6931])
    """
    require_targets(logits, targets, multi_label=True)
    require_one_of(ClassReduction, "reduction", reduction)
    loss: Tensor = _SoftBinaryCrossEntropy.apply(
        logits, targets.index, targets.weight, targets.tail, temperature
    )
    return loss / targets.num_classes if reduction == "mean" else loss
