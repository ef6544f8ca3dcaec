"""Which stored labels to trust: leave crops out, or train on their true class instead.

With conf the confidence of a stored label q,

    conf < low            the crop is left out
    low <= conf < mid     q' = 1 - smoothing for the true class, the rest evenly on all others
    mid <= conf <= high   q
    conf > high           the crop is left out, as too easy

The store stays as it is: what becomes of each crop is a code of its own, found again from the same
settings.

Source: the idea of FerKD (Shen, ICCV 2023), whose crops of low confidence are hard negatives or
context. Differs: its thresholds are not published in its code; these are the user's, as
confidences or as shares of all crops.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fkd.errors import ConfigError
from fkd.labels.targets import SoftTargets

BINS = 1 << 16
"""Confidences are counted in so many equal parts of [0, 1] where thresholds are shares."""


class Verdict(IntEnum):
    """What becomes of a crop."""

    KEEP = 0
    CALIBRATE = 1
    LEAVE_OUT = 2


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Which stored labels are trusted, by their confidence; the default trusts all.

    Attributes:
        low: crops with less are left out (0: none).
        mid: crops with less, but at least `low`, get their smoothed true class (0: none).
        high: crops with more are left out, as too easy (1: none).
        shares: low, mid and high are shares of all crops instead of confidences: mid 0.1 is a tenth
            of the crops.
        confidence: the largest probability of a label, or that of the true class.
        smoothing: what the true class of a calibrated label leaves to all others.
    """

    low: float = 0.0
    mid: float = 0.0
    high: float = 1.0
    shares: bool = False
    confidence: Literal["largest", "truth"] = "largest"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("low", "mid", "high"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                found = getattr(self, name)
                raise ConfigError(f"calibration.{name} must lie in [0, 1], got {found}")
        if not self.low < self.high or not self.mid <= self.high:
            raise ConfigError(
                f"calibration.low and calibration.mid must lie below calibration.high, got "
                f"{self.low} and {self.mid} and {self.high}"
            )
        if 0.0 < self.mid <= self.low:
            raise ConfigError(
                f"calibration.mid {self.mid} calibrates nothing: crops below calibration.low "
                f"{self.low} are left out; set it higher, or leave it out"
            )
        if not 0.0 <= self.smoothing < 1.0:
            raise ConfigError(f"calibration.smoothing must lie in [0, 1), got {self.smoothing}")


# A function, not a property: the command line takes public properties for subcommands.


def calibrates(config: CalibrationConfig) -> bool:
    """Whether any crop could be left out or calibrated."""
    return config.low > 0.0 or config.mid > 0.0 or config.high < 1.0


@dataclass(frozen=True)
class Thresholds:
    """Confidences that part the crops; see the top of this file."""

    low: float
    mid: float
    high: float


def confidences(targets: SoftTargets, truth: Tensor | None = None) -> Tensor:
    """The largest probability of each label, float32 (B,); with `truth`, ids (B,), of these."""
    if truth is not None:
        if targets.index is None:
            return targets.tail + targets.weight.gather(1, truth[:, None])[:, 0]
        named = targets.index == truth[:, None]
        return targets.tail + torch.where(named, targets.weight, 0.0).sum(1)
    if targets.index is None:
        return targets.tail + targets.weight.amax(1)
    same = targets.index[:, :, None] == targets.index[:, None, :]  # teachers may name one twice
    return targets.tail + torch.where(same, targets.weight[:, None, :], 0.0).sum(2).amax(1)


def count(values: Tensor) -> np.ndarray:
    """How many confidences (n,) fall into each bin, int64 (BINS,)."""
    bins = (values * BINS).long().clamp(0, BINS - 1)
    return torch.bincount(bins, minlength=BINS).numpy()


def thresholds(config: CalibrationConfig, counts: np.ndarray) -> Thresholds:
    """The thresholds of a configuration; `counts` (BINS,) of all crops matter where it has shares.

    As many crops as whole bins allow, at most the share.
    """
    if not config.shares:
        return Thresholds(config.low, config.mid, config.high)
    below = np.concatenate([[0], np.cumsum(counts)]) / max(counts.sum(), 1)
    shares = (config.low, config.mid)
    low, mid = (float(np.searchsorted(below, share, side="right") - 1) / BINS for share in shares)
    high = float(np.searchsorted(below, config.high)) / BINS
    return Thresholds(low, mid, high if config.high < 1.0 else 1.0)


def judge(values: Tensor, limits: Thresholds) -> Tensor:
    """What becomes of crops with these confidences, uint8 of their shape; see `Verdict`."""
    verdicts = torch.full(values.shape, Verdict.KEEP, dtype=torch.uint8)
    verdicts[values < limits.mid] = Verdict.CALIBRATE
    verdicts[(values < limits.low) | (values > limits.high)] = Verdict.LEAVE_OUT
    return verdicts


def calibrate(targets: SoftTargets, chosen: Tensor, truth: Tensor, smoothing: float) -> SoftTargets:
    """The same labels, those that are `chosen`, bool (B,), replaced by their true class (B,)."""
    other = smoothing / (targets.num_classes - 1)
    top = torch.where(chosen, 1.0 - smoothing - other, 0.0)[:, None]
    tail = torch.where(chosen, other, targets.tail)
    weight = torch.where(chosen[:, None], 0.0, targets.weight)
    if targets.index is None:
        return replace(targets, weight=weight.scatter_add(1, truth[:, None], top), tail=tail)
    index = torch.cat([targets.index, truth[:, None]], dim=1)
    return replace(targets, index=index, weight=torch.cat([weight, top], dim=1), tail=tail)
