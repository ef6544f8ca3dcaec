"""Settings that belong to one method alone."""

from dataclasses import dataclass
from typing import Literal

from fkd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DeitConfig:
    """DeiT distillation.

    Attributes:
        kind: hard (the teacher's most probable class) or soft (its probabilities, with
            temperature).
        alpha: weight of the teacher against the true class; the paper uses 0.5 for hard labels.
        divide_by_classes: divide the soft loss by the number of classes too, as the authors' code
            does; not in the paper.
    """

    kind: Literal["hard", "soft"] = "hard"
    alpha: float = 0.5
    divide_by_classes: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "soft"):
            raise ConfigError(f"deit.kind must be hard or soft, got {self.kind!r}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"deit.alpha must lie in [0, 1], got {self.alpha}")


@dataclass(frozen=True, kw_only=True)
class MealV2Config:
    """MEAL V2.

    Attributes:
        discriminator: official (the student lowers the discriminator's loss, as the authors' code
            has it, a regularizer), reversed (the student raises it, as an adversary would), or off.
    """

    discriminator: Literal["official", "reversed", "off"] = "official"

    def __post_init__(self) -> None:
        if self.discriminator not in ("official", "reversed", "off"):
            raise ConfigError(
                "mealv2.discriminator must be official, reversed or off, got "
                f"{self.discriminator!r}"
            )
