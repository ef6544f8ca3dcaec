"""What the features of a frozen network are worth: k nearest neighbors, and linear classifiers.

Both work on features that are computed once, so that a sweep over learning rates takes seconds. All
learning rates are trained side by side, as one batched matrix product; the best one is chosen on a
held-out tenth of the training images, not on those that are reported, and then trained on all.

Source: k-NN as in Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018 (k and temperature 0.07); the sweep as in Oquab et al., "DINOv2", 2023.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fkd.errors import ConfigError

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""What a linear probe tries."""

MIN_IMAGES = 20
"""Training images that a linear probe needs, so that some can be held out."""

Progress = Callable[[int], None]  # so many more epochs are done

_MOMENTUM = 0.9
_HELD_OUT = 10  # every tenth image of a shuffled training set
_CHUNK = 1024  # images whose similarities to all training images are in memory at once


@dataclass(frozen=True)
class Features:
    """Features of labeled images.

    Attributes:
        values: float32 (n, D).
        labels: class ids, int64 (n,).
    """

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Features":
        """The same on another device."""
        return Features(self.values.to(device), self.labels.to(device))

    def __getitem__(self, rows: Tensor) -> "Features":
        return Features(self.values[rows], self.labels[rows])


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a linear classifier on features.

    Attributes:
        top1: percent.
        top5: percent; among all classes where there are fewer.
        learning_rate: the one that was best on the held-out images.
        held_out_top1: of every learning rate at which it did not diverge, percent.
    """

    top1: float
    top5: float
    learning_rate: float
    held_out_top1: dict[float, float]


def knn_accuracy(train: Features, test: Features, k: int = 20, temperature: float = 0.07) -> float:
    """Top-1 in percent of a vote of the k nearest training images, by cosine.

    A neighbor's vote counts exp(cosine / temperature).

    Raises:
        ConfigError: k is not in [1, number of training images].
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"k must lie in [1, {len(train)}], the training images, got {k}")
    bank, num_classes = F.normalize(train.values, dim=1), _num_classes(train, test)
    right = 0
    for first in range(0, len(test), _CHUNK):
        queries = F.normalize(test.values[first : first + _CHUNK], dim=1)
        cosine, nearest = (queries @ bank.T).topk(k, dim=1)
        weights = ((cosine - 1.0) / temperature).exp()  # at most 1: nothing overflows
        votes = weights.new_zeros(len(queries), num_classes)
        votes.scatter_add_(1, train.labels[nearest], weights)
        right += int((votes.argmax(1) == test.labels[first : first + _CHUNK]).sum())
    return 100.0 * right / len(test)


def linear_probe(
    train: Features,
    test: Features,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 50,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress = lambda num_epochs: None,
) -> ProbeResult:
    """The accuracy on `test` of a linear classifier trained on `train`.

    SGD with momentum 0.9, no weight decay, cosine schedule, on standardized features; where these
    are. With `progress`, 2 * epochs are done.

    Raises:
        ConfigError: there are too few training images to hold some out; or the classifier diverged,
            whatever the rate.
    """
    if len(train) < MIN_IMAGES:
        raise ConfigError(f"a linear probe needs {MIN_IMAGES} training images, got {len(train)}")
    train, test = _standardized(train, test)
    num_classes = _num_classes(train, test)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[::_HELD_OUT], order[torch.arange(len(order)) % _HELD_OUT != 0]

    def fit(part: Features, rates: Sequence[float]) -> "_Heads":
        heads = _Heads(part.values.shape[1], num_classes, rates, part.values.device)
        heads.fit(part, epochs, min(batch_size, len(part)), seed, progress)
        return heads

    heads = fit(train[rest], learning_rates)
    found = zip(learning_rates, heads.accuracies(train[held_out]), heads.finite(), strict=True)
    by_rate = {rate: top1 for rate, (top1, _), is_finite in found if is_finite}
    final = None
    if by_rate:
        best = max(by_rate, key=lambda rate: by_rate[rate])
        final = fit(train, [best])
    if final is None or not all(final.finite()):
        raise ConfigError(
            f"protocol.learning_rates: the classifier diverged at {min(learning_rates):g}; give "
            "smaller rates"
        )
    ((top1, top5),) = final.accuracies(test)
    return ProbeResult(top1, top5, best, by_rate)


class _Heads:
    """Linear classifiers from D features to C classes, one per learning rate."""

    def __init__(
        self, dim: int, num_classes: int, rates: Sequence[float], device: torch.device | None = None
    ) -> None:
        self.rates = torch.tensor(rates, device=device)[:, None, None]
        self.weight = torch.zeros(len(rates), dim, num_classes, device=device)
        self.bias = torch.zeros(len(rates), 1, num_classes, device=device)

    def logits(self, values: Tensor) -> Tensor:
        """(rates, n, C) of features (n, D)."""
        return torch.baddbmm(self.bias, values.expand(len(self.rates), -1, -1), self.weight)

    def fit(
        self,
        part: Features,
        epochs: int,
        batch_size: int,
        seed: int,
        progress: Progress = lambda num_epochs: None,
    ) -> None:
        """SGD; the gradient of the cross-entropy of a linear map is written out."""
        generator = torch.Generator().manual_seed(seed)
        velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        steps = max(1, len(part) // batch_size)
        for epoch in range(epochs):
            order = torch.randperm(len(part), generator=generator)
            for step in range(steps):
                batch = part[order[step * batch_size : (step + 1) * batch_size]]
                done = (epoch * steps + step) / (epochs * steps)
                rate = self.rates * 0.5 * (1.0 + math.cos(math.pi * done))
                error = torch.softmax(self.logits(batch.values), dim=2)
                error[:, torch.arange(len(batch)), batch.labels] -= 1.0
                error /= len(batch)
                gradients = [batch.values.T.expand(len(rate), -1, -1) @ error, error.sum(1, True)]
                for i, (value, gradient) in enumerate(
                    zip((self.weight, self.bias), gradients, strict=True)
                ):
                    velocity[i].mul_(_MOMENTUM).add_(gradient)
                    value.sub_(rate * velocity[i])
            progress(1)

    def finite(self) -> list[bool]:
        """Whether each classifier has learned without diverging."""
        pairs = zip(self.weight, self.bias, strict=True)
        return [bool(weight.isfinite().all() & bias.isfinite().all()) for weight, bias in pairs]

    def accuracies(self, part: Features) -> list[tuple[float, float]]:
        """Top-1 and top-5 in percent of each classifier."""
        right = torch.zeros(len(self.rates), 2, dtype=torch.int64, device=self.weight.device)
        for first in range(0, len(part), _CHUNK):
            rows = slice(first, first + _CHUNK)
            right += count_right(self.logits(part.values[rows]), part.labels[rows])
        share = 100.0 / len(part)
        return [(share * top1, share * top5) for top1, top5 in right.tolist()]


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Images whose class is first, and among the first five, int64 (..., 2).

    Args:
        logits: (..., n, C).
        labels: int64 (n,).
    """
    right = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]
    return torch.stack([right[..., 0].sum(-1), right.any(-1).sum(-1)], dim=-1)


def _standardized(train: Features, test: Features) -> tuple[Features, Features]:
    """Both less the mean of the training features, over their deviation, in every dimension."""
    deviation, mean = torch.std_mean(train.values, dim=0, keepdim=True)
    scale = deviation.clamp_min(1e-6)
    parts = (Features((part.values - mean) / scale, part.labels) for part in (train, test))
    return next(parts), next(parts)


def _num_classes(train: Features, test: Features) -> int:
    return 1 + int(max(train.labels.max(), test.labels.max()))
