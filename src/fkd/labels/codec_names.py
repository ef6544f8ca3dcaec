"""Codecs by name, of several teachers side by side, and with settings chosen when decoded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fkd.errors import ConfigError
from fkd.labels.codecs import (
    Codec,
    Full,
    Hard,
    Kind,
    Logits,
    MarginalRenorm,
    MarginalSmoothing,
    Smoothing,
    TopKLogits,
    TopKLogProbs,
)
from fkd.labels.encoded import Encoded
from fkd.labels.sampled import Sampled
from fkd.labels.sigmoid_codecs import Sigmoid, TopKSigmoid, is_multi_label
from fkd.labels.targets import SoftTargets
from fkd.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

SPELLINGS = (
    "full, hard, smoothing, ms:K, mr:K, sampled:K (K kept classes, e.g. ms:5), logits or logits:K; "
    "of multi-label teachers sigmoid or sigmoid:K; "
    "of T teachers side by side ms:5*T"
)
_NUMBER = re.compile("[0-9]{1,9}")
_SHOWN = 80  # characters of a spelling that an error message shows
_PLAIN: dict[str, type[Codec]] = {
    "full": Full,
    "hard": Hard,
    "smoothing": Smoothing,
    "logits": Logits,
    "sigmoid": Sigmoid,
}
_TOP_K: dict[str, Callable[[int], Codec]] = {
    "ms": MarginalSmoothing,
    "mr": MarginalRenorm,
    "sampled": Sampled,
    "logits": TopKLogProbs,
    "top": TopKLogits,
    "sigmoid": TopKSigmoid,
}


@dataclass(frozen=True)
class PerTeacher:
    """One label of another codec for each of T teachers.

        q = sum over teachers of weight_t q_t / sum of weights

    stays sparse: the kept classes of all teachers are listed side by side, and may repeat.

    Attributes:
        codec: of each label.
        count: T, teachers.
        weights: of the teachers, relative to each other; by default equal.
    """

    codec: Codec
    count: int
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(
                f"labels of {self.count} teacher are not several; use {self.codec.name}"
            )
        if isinstance(self.codec, Sampled):
            raise ConfigError(
                f"codec {self.codec.name} has no form of several teachers side by side; leave out "
                "--separate, and the mean of the teachers is sampled"
            )
        if self.codec.encodes == "logits":
            raise ConfigError(
                f"codec {self.codec.name} has no form of several teachers side by side, whose "
                "probabilities are stored; use one of probabilities, or logits:K"
            )
        if self.weights is None:
            return
        if len(self.weights) != self.count:
            raise ConfigError(
                f"teacher_weights: the labels are of {self.count} teachers, got "
                f"{len(self.weights)} weights"
            )
        if min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf"):
            raise ConfigError(
                f"teacher_weights must be at least 0 and not all 0, got {list(self.weights)}"
            )

    @property
    def name(self) -> str:
        """For example "ms:5*3"."""
        return f"{self.codec.name}*{self.count}"

    @property
    def encodes(self) -> Kind:
        """As the codec of each label."""
        return self.codec.encodes

    @property
    def stores(self) -> Kind:
        """As the codec of each label."""
        return self.codec.stores

    def num_ids(self, num_classes: int) -> int:
        """Those of each teacher."""
        return self.count * self.codec.num_ids(num_classes)

    def num_values(self, num_classes: int) -> int:
        """Those of each teacher."""
        return self.count * self.codec.num_values(num_classes)

    def encode(self, outputs: Tensor) -> Encoded:
        """Compress the outputs (n, T, C) of all teachers, one after the other."""
        labels = [self.codec.encode(output) for output in outputs.unbind(1)]
        return Encoded.concatenate(labels, axis=1)

    def targets(self, encoded: Encoded, num_classes: int) -> SoftTargets:
        """The weighted mean of the decoded labels; exact, because the sparse form is linear."""
        weights = self.weights or (1.0,) * self.count
        labels = [self.codec.targets(label, num_classes) for label in self.split(encoded)]
        return _weighted_mean(labels, [weight / sum(weights) for weight in weights])

    def split(self, encoded: Encoded) -> list[Encoded]:
        """The label of each teacher, in the order of the teachers."""

        def part(number: int) -> Encoded:
            return encoded.map(lambda array: np.split(array, self.count, axis=-1)[number])

        return [part(number) for number in range(self.count)]


def _weighted_mean(labels: list[SoftTargets], shares: list[float]) -> SoftTargets:
    first, pairs = labels[0], list(zip(labels, shares, strict=True))
    tail = sum((share * label.tail for label, share in pairs), torch.zeros_like(first.tail))
    weights = [share * label.weight for label, share in pairs]
    if first.index is None:
        return replace(first, weight=torch.stack(weights).sum(0), tail=tail)
    index = torch.cat([label.index for label in labels if label.index is not None], dim=1)
    return replace(first, index=index, weight=torch.cat(weights, dim=1), tail=tail)


def parse_codec(text: str) -> Codec:
    """The codec that a spelling names.

    Raises:
        ConfigError: the spelling is unknown, or K is not a whole number above 0.

    Example:
        >>> from fkd import parse_codec
        >>> parse_codec("ms:5")
        MarginalSmoothing(k=5)
    """
    each, star, count = text.partition("*")
    if star and _NUMBER.fullmatch(count):
        return PerTeacher(parse_codec(each), int(count))
    kind, colon, k = text.partition(":")
    if not colon and kind in _PLAIN:
        return _PLAIN[kind]()
    if colon and kind in _TOP_K and _NUMBER.fullmatch(k):
        return _TOP_K[kind](int(k))
    raise ConfigError(f"codec {text[:_SHOWN]!r} is unknown; use {SPELLINGS}")


def can_read(codec: Codec, stored: Codec) -> bool:
    """Whether a codec decodes labels that another has stored, without a conversion.

    The two are the same but for settings of decoding; or both are of K classes with probabilities,
    where `mr:K` decodes `ms:K`, but not the other way round, as in `fkd convert`; or `hard` takes
    the first class of a top-K.

    Example:
        >>> from fkd.labels.codec_names import can_read, parse_codec
        >>> can_read(parse_codec("mr:5"), parse_codec("ms:5"))
        True
        >>> can_read(parse_codec("ms:3"), parse_codec("ms:5"))  # others hold the rest
        False
    """
    if codec.name == stored.name:
        return True
    if isinstance(codec, PerTeacher) and isinstance(stored, PerTeacher):
        return codec.count == stored.count and can_read(codec.codec, stored.codec)
    if isinstance(codec, Hard):
        is_top = isinstance(stored, MarginalSmoothing | MarginalRenorm | TopKLogProbs)
        return is_top and not isinstance(stored, Sampled)
    if isinstance(stored, MarginalSmoothing):
        return isinstance(codec, MarginalSmoothing | MarginalRenorm) and codec.k == stored.k
    if isinstance(stored, MarginalRenorm):
        return isinstance(codec, MarginalRenorm) and codec.k == stored.k
    return False


def check_codec(codec: Codec, num_classes: int) -> None:
    """Refuse a codec that keeps more classes than there are.

    Raises:
        ConfigError: K is above `num_classes`.
    """
    if isinstance(codec, PerTeacher):
        codec = codec.codec
    if codec.num_ids(num_classes) > num_classes:
        whole = "sigmoid" if is_multi_label(codec) else "full"
        raise ConfigError(
            f"codec {codec.name} keeps {codec.num_ids(num_classes)} classes but there are only "
            f"{num_classes}; use a smaller K, or codec {whole}"
        )


def with_temperature(codec: Codec, temperature: float) -> Codec:
    """The codec, decoding labels at a temperature.

    Raises:
        ConfigError: the temperature is impossible, or the codec keeps no logits.
    """
    if not 0.0 < temperature < math.inf:
        raise ConfigError(f"label_temperature must be above 0 and finite, got {temperature}")
    if temperature == 1.0:
        return codec
    if isinstance(codec, PerTeacher):
        return replace(codec, codec=with_temperature(codec.codec, temperature))
    if isinstance(codec, Logits | TopKLogProbs):
        return replace(codec, temperature=temperature)
    if is_multi_label(codec):
        raise ConfigError(
            f"label_temperature: the temperature of {codec.name} labels is fixed when they are "
            "made; label again with --teacher.temperature"
        )
    raise ConfigError(
        f"label_temperature: the temperature of {codec.name} labels is fixed when they are made; "
        "label with --codec logits:5, which keeps what another temperature needs"
    )


def with_teacher_weights(codec: Codec, weights: Sequence[float] | None) -> Codec:
    """The codec, weighing the teachers of its labels; None leaves their weights as they are.

    Raises:
        ConfigError: the labels are of one teacher (or of a mean), or the weights do not fit.
    """
    if weights is None:
        return codec
    if not isinstance(codec, PerTeacher):
        raise ConfigError(
            f"teacher_weights: labels of codec {codec.name} are of one teacher, or of a mean; "
            "label with --separate to keep each teacher's"
        )
    return replace(codec, weights=tuple(weights))
