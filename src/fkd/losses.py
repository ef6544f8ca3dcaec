"""Soft cross-entropy straight from sparse targets, with its own backward.

For logits z, student temperature t and u = z / t, a target
q_c = tail + sum_k weight_k [c = index_k] has total mass s and

    L(z, q)  = - sum_c q_c log softmax(u)_c
             = sum_k weight_k (LSE(u) - u_k) + tail * sum_c (LSE(u) - u_c)
    dL/dz_c  = (s * softmax(u)_c - q_c) / t

so no (B, C) target is ever formed: O(C) for the log-sum-exp, O(K) for the rest.
Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3 and Eq. 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fkd.errors import ConfigError
from fkd.targets import SoftTargets


class _SoftCrossEntropy(torch.autograd.Function):
    """Per-crop soft cross-entropy; `index` None means that `weight` covers all classes."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        index: Tensor | None,
        weight: Tensor,
        tail: Tensor,
        temperature: float,
    ) -> Tensor:
        scaled = _scale(logits, temperature)
        weight, tail = weight.to(scaled.dtype), tail.to(scaled.dtype)
        lse = torch.logsumexp(scaled, dim=1, keepdim=True)
        named = scaled if index is None else scaled.gather(1, index)
        loss = (weight * (lse - named)).sum(1)
        loss += tail * (scaled.shape[1] * lse[:, 0] - scaled.sum(1))
        ctx.save_for_backward(logits, index, weight, tail, lse)
        ctx.temperature = temperature
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, index, weight, tail, lse = ctx.saved_tensors
        scaled = _scale(logits, ctx.temperature)
        mass = weight.sum(1) + scaled.shape[1] * tail
        scale = (grad_loss / ctx.temperature)[:, None]
        # One (B, C) buffer: the softmax becomes the gradient in place.
        grad = (scaled - lse).exp_()
        grad.mul_(scale * mass[:, None]).sub_(scale * tail[:, None])
        if index is None:
            grad.sub_(scale * weight)
        else:
            grad.scatter_add_(1, index, -scale * weight)
        return grad.to(logits.dtype), None, None, None, None


def _at_least_float32(logits: Tensor) -> Tensor:
    """Half precision loses the log-sum-exp; float64 stays, for tests."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _scale(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature; no copy where there is nothing to do."""
    logits = _at_least_float32(logits)
    return logits if temperature == 1.0 else logits / temperature


def soft_cross_entropy(logits: Tensor, targets: SoftTargets, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of each crop in nats, (B,), differentiable in `logits` (B, C).

    The target is not tempered and there is no factor t^2: both belong to the stored label.
    Source: FKD Sec. 3.3. Differs: the paper sums over the batch; callers take the mean, as the
    authors' code does.

    Raises:
        ConfigError: `logits` and `targets` differ in the number of classes.
    """
    if logits.shape[1] != targets.num_classes:
        raise ConfigError(
            f"the student gives {logits.shape[1]} classes but the labels have "
            f"{targets.num_classes}; build the student with num_classes={targets.num_classes}"
        )
    loss: Tensor = _SoftCrossEntropy.apply(
        logits, targets.index, targets.weight, targets.tail, temperature
    )
    return loss


class SoftTargetLoss(nn.Module):
    """Mean soft cross-entropy of a batch, optionally blended with the ground truth.

        L = soft_weight * L_soft(z / temperature, q) + (1 - soft_weight) * CE(z, label)

    Source: FKD Eq. 1; `soft_weight` is its lambda. The default 1 is FKD, which uses no labels.

    Example:
        >>> targets = SoftTargets.one_hot(torch.tensor([0, 1]), num_classes=2)
        >>> SoftTargetLoss()(torch.zeros(2, 2), targets).item()
        0.6931471824645996
    """

    def __init__(self, temperature: float = 1.0, soft_weight: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}")
        if not 0.0 <= soft_weight <= 1.0:
            raise ConfigError(f"soft_weight must lie in [0, 1], got {soft_weight}")
        self.temperature = temperature
        self.soft_weight = soft_weight

    def forward(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """The mean loss over the crops, a scalar."""
        return self.per_crop(logits, targets).mean()

    def per_crop(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """The loss of each crop, (B,)."""
        loss = soft_cross_entropy(logits, targets, self.temperature)
        if self.soft_weight == 1.0:
            return loss
        if targets.labels is None or bool((targets.labels < 0).any()):
            raise ConfigError(
                f"soft_weight={self.soft_weight} needs the true class of every image, which some "
                "lack; use images in class folders, or soft_weight=1"
            )
        hard = F.cross_entropy(_at_least_float32(logits), targets.labels, reduction="none")
        return self.soft_weight * loss + (1.0 - self.soft_weight) * hard

    def extra_repr(self) -> str:
        """Settings shown by `repr`."""
        return f"temperature={self.temperature}, soft_weight={self.soft_weight}"
