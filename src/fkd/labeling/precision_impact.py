"""How far fast numerics move labels, and how fast they are: measured on crops of the user."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from torch import Tensor

from fkd.data.sources import spread_images
from fkd.labeling.config import ceil_div
from fkd.labeling.pipeline import PreparedImage, TeacherInput, run_stages
from fkd.labeling.setup import LabelSetup
from fkd.labels.codecs import top_k
from fkd.labels.comparison import (
    EmbeddingComparison,
    LabelComparison,
    compare,
    compare_embeddings,
)
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.labels.targets import SoftTargets
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.numerics import Autocast
from fkd.models.single_teacher import Activation

_MAX_IMAGES = 32
_MAX_CROPS = 256
_MAX_SECONDS = 20.0  # a large teacher on a CPU; one batch is measured in any case
_DEFAULT_KEPT = 5  # classes to compare where the codec keeps all


@dataclass(frozen=True)
class PrecisionImpact:
    """Fast numerics against exact ones on the same crops.

    Attributes:
        autocast: the half precision.
        labels: all probabilities of fast numerics against exact ones as reference, or of a teacher
            without classes its embeddings; of no crops if no image could be read.
        kept: K, classes that are compared as a set; 0 of embeddings.
        same_kept: share of crops with the same K most probable classes.
        speed: crops per second by fast numerics, relative to exact numerics.
    """

    autocast: Autocast
    labels: LabelComparison | EmbeddingComparison
    kept: int = 1
    same_kept: float = 1.0
    speed: float = 1.0

    def __str__(self) -> str:
        if self.labels.num == 0:
            return f"fast ({self.autocast}): not measured, no sampled image can be read"
        same = f", same top-{self.kept} {self.same_kept:.1%}" if self.kept else ""
        return f"fast ({self.autocast}) against exact: {self.labels}{same}"

    @property
    def advice(self) -> str:
        """Whether it is worth it, one line."""
        if self.labels.num == 0:
            return ""
        speed = f"fast runs at {self.speed:.2f} times the speed of exact on this machine"
        return speed if self.speed > 1.0 else f"{speed}; leave out --numerics fast"


@dataclass(frozen=True)
class _BatchImpact:
    """One batch of crops in both precisions; seconds of each."""

    labels: LabelComparison | EmbeddingComparison
    num_same_kept: int
    exact_seconds: float
    fast_seconds: float


def measure_precision_impact(setup: LabelSetup, autocast: Autocast) -> PrecisionImpact:
    """Label some crops of images from all over the source in both ways, one pass at a time.

    Raises:
        TeacherError: the teacher's output is not finite in one of them.
    """
    places = spread_images(setup.source, _MAX_IMAGES)
    of_classes, stored = setup.teachers.is_classifier, setup.store_config
    kept = min(stored.num_ids or _DEFAULT_KEPT, stored.num_classes) if of_classes else 0
    nothing = LabelComparison.empty() if of_classes else EmbeddingComparison.empty()
    crops_per_image = ceil_div(_MAX_CROPS, len(places))

    def prepare(position: int) -> PreparedImage:
        image = setup.prepare((0, position))
        records = image.row.records
        if records is None:
            return image
        return replace(image, row=replace(image.row, records=records[:crops_per_image]))

    teach = partial(
        _compare_precisions,
        teachers=setup.teachers,
        autocast=autocast,
        kept=kept,
        multi_label=is_multi_label(stored.codec),
    )
    one_pass = replace(setup.parallelism, passes=1)
    stream = run_stages(places, prepare, setup.teachers.views, teach, one_pass)
    batches = []
    stop = time.monotonic() + _MAX_SECONDS
    with closing(stream):
        for batch in stream:
            batches += [] if batch is None else [batch]
            if time.monotonic() > stop:
                break
    labels = sum((batch.labels for batch in batches), start=nothing)
    if not batches:
        return PrecisionImpact(autocast, labels)
    steady = batches[1:] or batches  # the first batch warms up
    return PrecisionImpact(
        autocast,
        labels,
        kept=kept,
        same_kept=sum(batch.num_same_kept for batch in batches) / labels.num,
        speed=median(batch.exact_seconds / batch.fast_seconds for batch in steady),
    )


def _compare_precisions(
    batch: TeacherInput,
    teachers: TeacherEnsemble,
    autocast: Autocast,
    kept: int,
    multi_label: bool,
) -> _BatchImpact | None:
    """Label a batch in both precisions; None where it has no crops."""
    if not batch.crops:
        return None
    outputs, times = [], [time.perf_counter()]
    ask: Callable[..., Tensor] = teachers.logits
    if teachers.is_classifier:
        activation: Activation = "sigmoid" if multi_label else "softmax"
        ask = partial(teachers.probabilities, activation=activation)
    for precision in (None, autocast):
        output = ask(batch.views, autocast=precision)
        outputs.append(output[: len(batch.crops)].cpu())  # waits for a GPU
        times.append(time.perf_counter())
    seconds = (times[1] - times[0], times[2] - times[1])
    if not teachers.is_classifier:
        return _BatchImpact(compare_embeddings(*outputs), len(batch.crops), *seconds)
    exact, fast = (top_k(output, kept)[0].sort().values for output in outputs)
    same_kept = int((exact == fast).all(dim=1).sum())
    labels = [SoftTargets.full(output, multi_label=multi_label) for output in outputs]
    return _BatchImpact(compare(*labels), same_kept, *seconds)
