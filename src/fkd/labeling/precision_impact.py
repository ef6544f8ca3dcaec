"""How far fast numerics move labels, and how fast they are: measured on crops of the user."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from fkd.labeling.config import ceil_div
from fkd.labeling.pipeline import PreparedImage, TeacherInput, run_stages
from fkd.labeling.setup import LabelSetup
from fkd.labels.codecs import top_k
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherEnsemble

_MOST_IMAGES = 32
_MOST_CROPS = 256
_MOST_SECONDS = 20.0  # a large teacher on a CPU; one batch is measured in any case
_DEFAULT_KEPT = 5  # classes to compare where the codec keeps all
_SMALLEST = 1e-12  # probabilities are clamped to this before a logarithm


@dataclass(frozen=True)
class PrecisionImpact:
    """Fast numerics against exact ones on the same crops.

    Attributes:
        autocast: the half precision.
        num: crops compared; 0 if no image could be read.
        speed: crops a second by fast numerics for each one by exact numerics.
        mean_kl: mean of KL(exact || fast), nats.
        max_kl: the largest of them.
        mean_distance: mean total variation: half the sum of the differences of the probabilities.
        top1_agreement: share of crops whose most probable class is the same.
        kept: K, classes that are compared as a set.
        same_kept: share of crops with the same K most probable classes.
    """

    autocast: Autocast
    num: int
    speed: float = 1.0
    mean_kl: float = 0.0
    max_kl: float = 0.0
    mean_distance: float = 0.0
    top1_agreement: float = 1.0
    kept: int = 1
    same_kept: float = 1.0

    def __str__(self) -> str:
        if self.num == 0:
            return f"fast ({self.autocast}): not measured, no sampled image can be read"
        return (
            f"fast ({self.autocast}) moves labels of {self.num} crops: "
            f"KL mean {self.mean_kl:.1e} max {self.max_kl:.1e}, "
            f"total variation mean {self.mean_distance:.1e}, "
            f"top-1 agreement {self.top1_agreement:.1%}, same top-{self.kept} {self.same_kept:.1%}"
        )

    @property
    def advice(self) -> str:
        """Whether it is worth it, one line."""
        if self.num == 0:
            return ""
        said = f"fast runs at {self.speed:.2f} times the speed of exact on this machine"
        return said if self.speed > 1.0 else f"{said}; leave out --numerics fast"


@dataclass(frozen=True)
class _Pair:
    """A batch labeled in both ways: probabilities (n, C), and seconds for each."""

    exact: Tensor
    fast: Tensor
    seconds: tuple[float, float]


def measure_precision_impact(setup: LabelSetup, autocast: Autocast) -> PrecisionImpact:
    """Label some crops of images from all over the source in both ways, one pass at a time.

    Raises:
        TeacherError: the teacher's output is not finite in one of them.
    """
    source = setup.source
    places = np.unique(np.linspace(0, len(source) - 1, _MOST_IMAGES).astype(int)).tolist()
    crops_each = ceil_div(_MOST_CROPS, len(places))

    def prepare(i: int) -> PreparedImage:
        image = setup.prepare((0, i))
        records = image.row.records
        if records is None:
            return image
        return replace(image, row=replace(image.row, records=records[:crops_each]))

    def ask(batch: TeacherInput) -> _Pair | None:
        return _ask_both_ways(setup.teachers, batch, autocast)

    stream = run_stages(
        places, prepare, setup.teachers.views, ask, replace(setup.parallelism, passes=1)
    )
    pairs = []
    stop = time.monotonic() + _MOST_SECONDS
    with closing(stream):
        for pair in stream:
            pairs += [] if pair is None else [pair]
            if time.monotonic() > stop:
                break
    kept = setup.labeler.codec.num_ids(len(setup.teachers.class_names))
    return _summarize(pairs, autocast, kept)


def _ask_both_ways(
    teachers: TeacherEnsemble, batch: TeacherInput, autocast: Autocast
) -> _Pair | None:
    if not batch.crops:
        return None
    answers, times = [], [time.perf_counter()]
    for precision in (None, autocast):
        answer = teachers.probabilities(batch.views, autocast=precision)
        answers.append(answer[: len(batch.crops)].cpu())  # waits for a GPU
        times.append(time.perf_counter())
    return _Pair(answers[0], answers[1], (times[1] - times[0], times[2] - times[1]))


def _summarize(pairs: Sequence[_Pair], autocast: Autocast, kept: int) -> PrecisionImpact:
    if not pairs:
        return PrecisionImpact(autocast, 0)
    exact = torch.cat([pair.exact for pair in pairs]).double()
    fast = torch.cat([pair.fast for pair in pairs]).double()
    kept = min(kept or _DEFAULT_KEPT, exact.shape[1])
    p, q = exact.clamp(min=_SMALLEST), fast.clamp(min=_SMALLEST)
    kl = (p * (p / q).log() - p + q).sum(dim=1)  # the last two cancel, up to rounding of the sums
    same = [
        (top_k(exact, k)[0].sort().values == top_k(fast, k)[0].sort().values).all(dim=1)
        for k in (1, kept)
    ]
    steady = pairs[1:] or pairs  # the first batch warms up
    return PrecisionImpact(
        autocast,
        len(exact),
        speed=median(pair.seconds[0] / pair.seconds[1] for pair in steady),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        mean_distance=float((exact - fast).abs().sum(dim=1).mean() / 2),
        top1_agreement=float(same[0].double().mean()),
        kept=kept,
        same_kept=float(same[1].double().mean()),
    )
