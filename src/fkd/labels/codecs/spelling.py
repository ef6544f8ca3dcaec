"""Codecs by name, and with settings that are chosen when they are decoded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from fkd.errors import ConfigError
from fkd.labels.codecs.codec import Codec
from fkd.labels.codecs.logits import Logits, TopKLogits, TopKLogProbs
from fkd.labels.codecs.probabilities import Full, Hard, MarginalRenorm, MarginalSmoothing, Smoothing
from fkd.labels.codecs.separate import PerTeacher

SPELLINGS = (
    "full, hard, smoothing, ms:K, mr:K (K kept classes, e.g. ms:5), logits or logits:K; "
    "of T teachers side by side ms:5*T"
)


def parse_codec(text: str) -> Codec:
    """The codec that a spelling names.

    Raises:
        ConfigError: the spelling is unknown, or K is not a whole number above 0.

    Example:
        >>> parse_codec("ms:5")
        MarginalSmoothing(k=5)
    """
    plain: dict[str, type[Codec]] = {
        "full": Full,
        "hard": Hard,
        "smoothing": Smoothing,
        "logits": Logits,
    }
    top: dict[str, Callable[[int], Codec]] = {
        "ms": MarginalSmoothing,
        "mr": MarginalRenorm,
        "logits": TopKLogProbs,
        "top": TopKLogits,
    }
    one, star, count = text.partition("*")
    if star and count.isdecimal():
        return PerTeacher(parse_codec(one), int(count))
    kind, colon, k = text.partition(":")
    if not colon and kind in plain:
        return plain[kind]()
    if colon and kind in top and k.isdecimal():
        return top[kind](int(k))
    raise ConfigError(f"codec {text!r} is unknown; use {SPELLINGS}")


def check_codec(codec: Codec, num_classes: int) -> None:
    """Refuse a codec that keeps more classes than there are.

    Raises:
        ConfigError: K is above `num_classes`.
    """
    if isinstance(codec, PerTeacher):
        codec = codec.codec
    if codec.num_index(num_classes) > num_classes:
        raise ConfigError(
            f"codec {codec.name} keeps {codec.num_index(num_classes)} classes but there are only "
            f"{num_classes}; use a smaller K, or codec full"
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
    raise ConfigError(
        f"label_temperature: labels of codec {codec.name} have theirs for good; label with "
        "--codec logits:5, which keeps what another temperature needs"
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
