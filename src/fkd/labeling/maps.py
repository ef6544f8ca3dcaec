"""Label maps: one pass of a teacher over each whole image, its largest logits kept cell by cell.

The image is resized to the teacher's input without regard to its aspect ratio, so that the cells of
the map cover all of it. Everything else is as in labeling crops: the same pipeline, store, resume,
gate and audit. Labels of crops are pooled from the maps in training (`fkd.labels.pooling`).

Source: Re-labeling ImageNet (Yun et al., CVPR 2021), Sec. 3.1; the authors keep the 5 largest.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from fkd.crops.records import CropRecords
from fkd.crops.replay import whole_image
from fkd.data.sources import ImagesConfig, ImageSource, open_source
from fkd.errors import ConfigError
from fkd.labeling.config import (
    ClassChoice,
    base_identity,
    default_images_per_shard,
    describe_numerics,
    resolve_device,
)
from fkd.labeling.labels import ShardShape, TeacherLabeler
from fkd.labeling.run import LabelResult, Progress, run_labeling
from fkd.labeling.setup import LabelSetup, resolve_parallelism
from fkd.labels.codecs import TopKLogits
from fkd.models.dense import DenseTeacher
from fkd.models.teacher import TeacherConfig, load_teachers

MapDtype = Literal["f16", "f32"]


@dataclass(frozen=True, kw_only=True)
class LabelMapsConfig:
    """Label maps: run a teacher once over every whole image and store what each cell shows.

    Attributes:
        images: the images to label.
        out: folder of the store of maps; one that was begun is continued.
        teacher: the model that gives the maps: a network that takes the mean of a feature map and
            then classifies it by one linear layer.
        top_k: classes kept of each cell.
        value_dtype: how a logit is stored.
        classes: teacher keeps all classes of its head; dataset keeps those of the images' folders,
            matched by name, in their order.
        images_per_shard: images in a unit of work; by default at least 1,024, and at most 1,024
            shards.
        batch_size: images in a forward pass; by default 16 on a CPU, 256 on a GPU.
        device: where the teacher runs; by default a GPU if there is one.
        num_workers: threads that decode and resize ahead of the teacher.
        min_accuracy: refuse a teacher whose top-1 on a sample of the images is lower, 0 to 1.
        gate_images: images in that sample; 0 skips it.
        max_unreadable: images that may be unreadable in a finished store.
        probes: images that are labeled anew and compared, in one cell, at the end; 0 skips it.
        seed: picks these.
    """

    images: ImagesConfig
    out: str
    teacher: TeacherConfig
    top_k: int = 5
    value_dtype: MapDtype = "f16"
    classes: ClassChoice = "teacher"
    images_per_shard: int | None = None
    batch_size: int | None = None
    device: str | None = None
    num_workers: int = 2
    min_accuracy: float | None = None
    gate_images: int = 256
    max_unreadable: int = 0
    probes: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the label maps, e.g. --out maps/mine")
        at_least = {"top_k": 1, "images_per_shard": 1, "batch_size": 1, "num_workers": 1}
        at_least |= {"gate_images": 0, "max_unreadable": 0, "probes": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        if self.min_accuracy is not None and not 0.0 <= self.min_accuracy <= 1.0:
            raise ConfigError(f"min_accuracy must lie in [0, 1], got {self.min_accuracy}")
        for name, known in (("value_dtype", ("f16", "f32")), ("classes", ("teacher", "dataset"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")


def label_maps(config: LabelMapsConfig, progress: Progress | None = None) -> LabelResult:
    """Make label maps, or go on with it; ends with a finished store.

    Raises:
        TeacherError: the teacher's classifier is no linear function of mean features; and whatever
            `fkd.labeling.label` raises.
    """
    return run_labeling(partial(open_map_session, config), config, progress)


def open_map_session(config: LabelMapsConfig, passes: int, local_rank: int = 0) -> LabelSetup:
    """Open the images and load the teacher of a run; raises like `label_maps`."""
    source = open_source(config.images)
    device = resolve_device(config.device, local_rank)
    names = source.class_names if config.classes == "dataset" else None
    teachers = load_teachers([config.teacher], class_names=names, device=device)
    dense = DenseTeacher(teachers.teachers[0])
    parallelism = resolve_parallelism(config.batch_size, config.num_workers, passes, device)
    codec = TopKLogits(config.top_k)
    identity = map_identity(
        source, teachers.class_names, dense.grid, codec, config.value_dtype, config.images_per_shard
    ) | {
        "teachers": teachers.identity(),
        "numerics": describe_numerics(teachers, parallelism.batch_size, None),
    }
    return LabelSetup(
        config=config,
        source=source,
        teachers=teachers,
        device=device,
        parallelism=parallelism,
        store_config=json.loads(json.dumps(identity)),  # tuples become lists, as in a file
        crops_per_image=1,
        draw=_draw,
        labeler=TeacherLabeler(teachers, codec, config.value_dtype, None, dense),
        shape=ShardShape(dense.grid[0] * dense.grid[1], config.top_k, config.top_k, {}, dense.grid),
    )


def map_identity(
    source: ImageSource,
    class_names: list[str],
    grid: tuple[int, int],
    codec: TopKLogits,
    value_dtype: str,
    images_per_shard: int | None,
) -> dict[str, Any]:
    """The identity of a store of maps, without what is known of the teacher.

    Raises:
        ConfigError: more classes are kept than there are.
    """
    return base_identity(source, class_names, codec, "map", value_dtype) | {
        "grid": list(grid),
        "num_crops": grid[0] * grid[1],
        "images_per_shard": images_per_shard or default_images_per_shard(len(source), 1),
    }


def _draw(key: bytes, size: tuple[int, int]) -> CropRecords:
    """What of an image goes through the teacher: all of it, at once."""
    return whole_image(size)
