"""What labeling will cost - bytes, crops and teacher hours - before it runs."""

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, repeat

from fkd.data.canary import count_canaries
from fkd.data.sources import remarks_of
from fkd.errors import ConfigError, ImageError
from fkd.labeling.config import LabelConfig
from fkd.labeling.identity import describe_environment
from fkd.labeling.setup import LabelSetup, build_setup
from fkd.models.numerics import exact_numerics
from fkd.store import predict_num_bytes

_SAMPLE_SECONDS = 8.0
_SAMPLED_IMAGES = 64
_REPEATS = 256  # of a few images, where there are only few


@dataclass(frozen=True)
class CostEstimate:
    """What a store will hold and cost.

    Attributes:
        num_images: images to label.
        num_crops: crops of all images together, each one pass through every teacher.
        num_shards: units of work, and files of the store.
        num_bytes: size of the finished store.
        num_classes: classes of a label; of a teacher without classes, dimensions.
        is_of_classes: whether they are classes.
        codec: how a label is compressed.
        crops_per_second: measured on a few real images, decoding and cropping included.
        teacher_seconds: for one process on this machine.
        remarks: what the user may want to know of the images, a sentence each.
    """

    num_images: int
    num_crops: int
    num_shards: int
    num_bytes: int
    num_classes: int
    is_of_classes: bool
    codec: str
    crops_per_second: float
    teacher_seconds: float
    remarks: list[str]


def plan(config: LabelConfig, sample_seconds: float = _SAMPLE_SECONDS) -> CostEstimate:
    """Predict size and time of a labeling run; writes nothing.

    Args:
        config: as for `label`.
        sample_seconds: how long to measure, at most.

    Raises:
        ConfigError, TeacherError: as `label` does.
        ImageError: no image can be read.
    """
    if config.shards is not None:
        raise ConfigError("shards: `fkd plan` is about all of a store; leave them out")
    with exact_numerics() as passes:
        setup = build_setup(config, passes)
        speed = _measure_speed(setup, sample_seconds)
    store_config = setup.store_config
    num_crops = store_config.num_images * config.num_crops
    return CostEstimate(
        num_images=store_config.num_images,
        num_crops=num_crops,
        num_shards=store_config.num_shards,
        num_bytes=_predict_bytes(setup),
        num_classes=store_config.num_classes,
        is_of_classes=setup.teachers.is_classifier,
        codec=store_config.codec.name,
        crops_per_second=speed,
        teacher_seconds=num_crops / speed,
        remarks=remarks_of(setup.source),
    )


def _predict_bytes(setup: LabelSetup) -> int:
    source = setup.source
    keys = (len(source.key(i)) for i in range(len(source)))
    return predict_num_bytes(
        setup.store_config.source,
        sum(keys) / len(source),
        num_canaries=count_canaries(len(source), setup.passes_per_image),
        environment=describe_environment(setup.device),
    )


def _measure_speed(setup: LabelSetup, seconds: float) -> float:
    """Crops per second of the whole pipeline on images from all over the source."""
    spread = range(0, len(setup.source), max(1, len(setup.source) // _SAMPLED_IMAGES))
    stream = setup.label((0, i) for i in chain.from_iterable(repeat(spread, _REPEATS)))
    all_crops = len(setup.source) * setup.passes_per_image
    started, now, num_crops = 0.0, 0.0, 0
    with closing(stream):
        for batch in stream:
            now = time.monotonic()
            num_crops += batch.num_crops if started else 0
            started = started or now  # the first batch warms up and does not count
            if now - started > seconds or num_crops >= all_crops:
                break
    if num_crops == 0:
        raise ImageError(
            f"none of {len(spread)} sampled images below {setup.source.root} can be read; "
            "`fkd label` would list what is wrong with each"
        )
    return num_crops / (now - started)
