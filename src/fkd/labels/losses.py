"""Soft cross-entropy straight from sparse targets, with its own backward.

For logits z, student temperature t and u = z / t, a target
q_c = tail + sum_k weight_k [c = index_k] has total mass s and

    L(z, q)  = - sum_c q_c log softmax(u)_c
             = sum_k weight_k (LSE(u) - u_k) + tail * sum_c (LSE(u) - u_c)
    dL/dz_c  = (s * softmax(u)_c - q_c) / t

so no (B, C) target is ever formed. On top of the logits it needs the memory of one (B, C), or two
where t is not 1, instead of three: softmax(u), which becomes the gradient in the backward pass. LSE
follows from it, as log max softmax(u) = max u - LSE(u). For times see docs/performance.md.

Source: FKD (Shen and Xing, ECCV 2022), Sec. 3.3 and Eq. 1.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fkd.errors import ConfigError
from fkd.labels.binary_losses import soft_binary_cross_entropy
from fkd.labels.logits import require_targets, scale_logits
from fkd.labels.targets import SoftTargets


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
        scaled = scale_logits(logits, temperature)
        probs = torch.softmax(scaled, dim=1)
        log_sum_exp = scaled.amax(1) - probs.amax(1).log()
        weight, tail = weight.to(probs.dtype), tail.to(probs.dtype)
        kept = scaled if index is None else scaled.gather(1, index)
        tail_term = tail * (scaled.sum(1) - scaled.shape[1] * log_sum_exp)
        tail_term.masked_fill_(tail == 0.0, 0.0)  # a logit may be -inf
        # Compiled code does not see that a backward pass took them: there each computes its own.
        ctx.temperature, ctx.probs = temperature, None if torch.compiler.is_compiling() else probs
        ctx.save_for_backward(logits, index, weight, tail)
        return -((kept - log_sum_exp[:, None]).mul_(weight).sum(1) + tail_term)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, index, weight, tail = ctx.saved_tensors
        scale = (grad_loss / ctx.temperature)[:, None]
        total_mass = weight.sum(1) + logits.shape[1] * tail
        grad_logits, ctx.probs = ctx.probs, None
        if grad_logits is None:  # overwritten by an earlier backward pass over a retained graph
            grad_logits = torch.softmax(scale_logits(logits, ctx.temperature), dim=1)
        grad_logits.mul_(scale * total_mass[:, None]).sub_(scale * tail[:, None])
        if index is None:
            grad_logits.sub_(scale * weight)
        else:
            grad_logits.scatter_add_(1, index, -scale * weight)
        return grad_logits.to(logits.dtype), None, None, None, None


def soft_cross_entropy(logits: Tensor, targets: SoftTargets, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of each crop in nats, (B,), differentiable in `logits` (B, C).

    The target is not tempered and there is no factor t^2: both belong to the stored label.
    Source: FKD Sec. 3.3. Differs: the paper sums over the batch; callers take the mean, as the
    authors' code does.

    Raises:
        ConfigError: `logits` and `targets` differ in the number of classes, there are none, or each
            class has a probability of its own.

    Example:
        >>> import torch
        >>> from fkd import SoftTargets, soft_cross_entropy
        >>> targets = SoftTargets.full(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> soft_cross_entropy(torch.zeros(2, 2), targets)
        tensor([0.6931, 0.6931])
    """
    require_targets(logits, targets, multi_label=False)
    loss: Tensor = _SoftCrossEntropy.apply(
        logits, targets.index, targets.weight, targets.tail, temperature
    )
    return loss


def target_loss(logits: Tensor, targets: SoftTargets, temperature: float = 1.0) -> Tensor:
    """The loss of each crop, (B,), that the targets are for: of a softmax, or of sigmoids."""
    multi_label = getattr(targets, "multi_label", False)  # embeddings, which have none, are refused
    of_kind = soft_binary_cross_entropy if multi_label else soft_cross_entropy
    return of_kind(logits, targets, temperature)


class SoftTargetLoss(nn.Module):
    """Mean loss of a batch against soft labels, optionally blended with that of the true class.

        L = soft_weight * soft_scale * L_soft(z / temperature, q) + (1 - soft_weight) * CE(z, y)

    Source: FKD Eq. 1; `soft_weight` is its lambda. The default 1 is FKD, which uses no labels.
    `soft_scale` is temperature^2 where the teacher's logits were divided by the same temperature
    (Hinton et al. 2015), which keeps the size of the soft gradient.

    L_soft is the soft cross-entropy; of multi-label targets, whose classes have a probability each,
    the binary cross-entropy (`soft_binary_cross_entropy`). The targets say which they are.

    Example:
        >>> import torch
        >>> from fkd import SoftTargetLoss, SoftTargets
        >>> targets = SoftTargets.one_hot(torch.tensor([0, 1]), num_classes=2)
        >>> SoftTargetLoss()(torch.zeros(2, 2), targets).item()
        0.6931471824645996
    """

    def __init__(
        self, temperature: float = 1.0, soft_weight: float = 1.0, soft_scale: float = 1.0
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}")
        if not 0.0 <= soft_weight <= 1.0:
            raise ConfigError(f"soft_weight must lie in [0, 1], got {soft_weight}")
        self.temperature = temperature
        self.soft_weight = soft_weight
        self.soft_scale = soft_scale

    def forward(
        self, logits: Tensor, targets: SoftTargets, truth: SoftTargets | None = None
    ) -> Tensor:
        """The mean loss over the crops, a scalar; arguments as `per_crop`."""
        return self.per_crop(logits, targets, truth).mean()

    def per_crop(
        self, logits: Tensor, targets: SoftTargets, truth: SoftTargets | None = None
    ) -> Tensor:
        """The loss of each crop, (B,).

        Args:
            logits: of the student, (B, C).
            targets: the soft labels q.
            truth: the true classes y, smoothed or mixed if need be; by default the classes in
                `targets.labels`.

        Raises:
            ConfigError: the truth is needed and unknown, or the numbers of classes differ.
        """
        loss = self.soft_scale * target_loss(logits, targets, self.temperature)
        if self.soft_weight == 1.0:
            return loss
        if truth is None:
            truth = _known_classes(targets)
        return self.soft_weight * loss + (1.0 - self.soft_weight) * target_loss(logits, truth)

    def extra_repr(self) -> str:
        """Settings shown by `repr`."""
        scale = "" if self.soft_scale == 1.0 else f", soft_scale={self.soft_scale}"
        return f"temperature={self.temperature}, soft_weight={self.soft_weight}{scale}"


def kl_divergence(logits: Tensor, targets: SoftTargets, temperature: float = 1.0) -> Tensor:
    """KL(q || softmax(z / temperature)) of each crop in nats, (B,); gradient of the cross-entropy.

    Kept classes of a target must be distinct, as in labels that were not mixed.
    """
    return soft_cross_entropy(logits, targets, temperature) - targets.entropy()


def _known_classes(targets: SoftTargets) -> SoftTargets:
    """The true classes that travel with soft labels, as labels of their own."""
    if targets.multi_label:
        raise ConfigError(
            "soft_weight below 1 needs the true classes of every crop, which multi-label targets "
            "do not carry; give them as the truth (SoftTargets.multi_hot), or use soft_weight=1"
        )
    if targets.labels is None or bool((targets.labels < 0).any()):
        raise ConfigError(
            "soft_weight below 1 needs the true class of every crop, which some lack (mixed crops, "
            "images outside class folders); use images in class folders, or soft_weight=1"
        )
    return SoftTargets.one_hot(targets.labels, targets.num_classes)
