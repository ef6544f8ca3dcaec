"""What labeling will cost - bytes, crops and teacher hours - before it runs."""

import math
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TypeAlias

from fkd.checks import require_positive, require_whole
from fkd.data.canary import count_canaries
from fkd.data.sources import remarks_of
from fkd.errors import ConfigError, ImageError
from fkd.labeling.config import LabelConfig, ceil_div, resolve_images_per_shard
from fkd.labeling.identity import describe_environment
from fkd.labeling.pipeline import TeacherInput, run_stages
from fkd.labeling.setup import LabelSetup, build_setup, remarks_on_codec
from fkd.models.numerics import exact_numerics
from fkd.store import predict_num_bytes
from fkd.store.config import StoreConfig

_SAMPLE_SECONDS = 8.0
_SAMPLED_IMAGES = 64
_REPEATS = 256  # of a few images, where there are only few

Stages: TypeAlias = Callable[[LabelSetup, Iterable[tuple[int, int]]], Generator[int, None, None]]
"""From images, as (shard, position), to the number of crops in each batch."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig(LabelConfig):
    """What a labeling run will cost, here or on other machines.

    Attributes:
        for_images: plan for that many images like these, such as 1281167 with a hundred of them at
            hand; by default for those that are there.
        num_devices: GPUs, or other processes, that label side by side, each with its own teacher.
        crops_per_second: what one of them labels, known from elsewhere; by default it is measured
            here.
    """

    for_images: int | None = None
    num_devices: int = 1
    crops_per_second: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(1, "for_images", self.for_images)
        require_whole(1, "num_devices", self.num_devices)
        require_positive("crops_per_second", self.crops_per_second)
        if self.shards is not None:
            raise ConfigError("shards: `fkd plan` is about all of a store; leave them out")


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
        crops_per_second: of one device: as given, or measured on a few real images, decoding and
            cropping included.
        cut_per_second: crops that the threads of one process decode and cut here, as inputs of all
            teachers, while no teacher runs.
        num_devices: that label side by side.
        seconds: until all of them are done.
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
    cut_per_second: float
    num_devices: int
    seconds: float
    remarks: list[str]

    def threads_needed(self, num_workers: int) -> int:
        """Threads like these `num_workers` that cut what one device labels."""
        return max(1, math.ceil(num_workers * self.crops_per_second / self.cut_per_second))


def plan(config: PlanConfig, sample_seconds: float = _SAMPLE_SECONDS) -> CostEstimate:
    """Predict size and time of a labeling run; writes nothing.

    Shards are the units of work: the device with the most of them decides when a run is done.

    Args:
        config: as for `label`, and what is different elsewhere.
        sample_seconds: how long to measure, at most.

    Raises:
        ConfigError, TeacherError: as `label` does.
        ImageError: no image can be read.
    """
    with exact_numerics() as passes:
        setup = build_setup(config, passes)
        given = config.crops_per_second
        cut = _per_second(setup, _cut, sample_seconds / 4)
        speed = given or _per_second(setup, _label, sample_seconds)
    store = _resized(setup.store_config, config)
    slowest = ceil_div(store.num_shards, config.num_devices) * store.images_per_shard
    return CostEstimate(
        num_images=store.num_images,
        num_crops=store.num_images * config.num_crops,
        num_shards=store.num_shards,
        num_bytes=_predict_bytes(setup, store),
        num_classes=store.num_classes,
        is_of_classes=setup.teachers.is_classifier,
        codec=store.codec.name,
        crops_per_second=speed,
        cut_per_second=cut,
        num_devices=config.num_devices,
        seconds=min(slowest, store.num_images) * config.num_crops / speed,
        remarks=remarks_of(setup.source) + remarks_on_codec(setup),
    )


def _resized(store: StoreConfig, config: PlanConfig) -> StoreConfig:
    """The identity of the store with as many images as are planned for."""
    if config.for_images is None:
        return store
    per_shard = resolve_images_per_shard(
        config.images_per_shard, config.for_images, config.num_crops
    )
    resized = {"num_images": config.for_images, "images_per_shard": per_shard}
    return StoreConfig.parse(store.source | resized, "the config")


def _predict_bytes(setup: LabelSetup, store: StoreConfig) -> int:
    source = setup.source
    keys = (len(source.key(i)) for i in range(len(source)))
    return predict_num_bytes(
        store.source,
        sum(keys) / len(source),
        num_canaries=count_canaries(store.num_images, setup.passes_per_image),
        environment=describe_environment(setup.device),
    )


def _label(setup: LabelSetup, places: Iterable[tuple[int, int]]) -> Generator[int, None, None]:
    """The number of crops of each batch, once it is labeled."""
    with closing(setup.label(places)) as stream:
        for batch in stream:
            yield batch.num_crops


def _cut(setup: LabelSetup, places: Iterable[tuple[int, int]]) -> Generator[int, None, None]:
    """The number of crops of each batch, once it is cut; no teacher runs."""

    def count(batch: TeacherInput) -> int:
        return len(batch.crops)

    views = setup.teachers.views
    with closing(run_stages(places, setup.prepare, views, count, setup.parallelism)) as stream:
        yield from stream


def _per_second(setup: LabelSetup, measured: Stages, seconds: float) -> float:
    """Crops per second of all or some stages, on images from all over the source."""
    spread = range(0, len(setup.source), max(1, len(setup.source) // _SAMPLED_IMAGES))
    all_crops = len(setup.source) * setup.passes_per_image
    started, now, num_crops = 0.0, 0.0, 0
    with closing(
        measured(setup, ((0, i) for i in chain.from_iterable(repeat(spread, _REPEATS))))
    ) as stream:
        for count in stream:
            now = time.monotonic()
            num_crops += count if started else 0
            started = started or now  # the first batch warms up and does not count
            if now - started > seconds or num_crops >= all_crops:
                break
    if num_crops == 0:
        raise ImageError(
            f"none of {len(spread)} sampled images below {setup.source.root} can be read; "
            "`fkd label` would list what is wrong with each"
        )
    return num_crops / max(now - started, 1e-6)
