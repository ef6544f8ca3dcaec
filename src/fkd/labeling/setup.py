"""What a labeling run works with, opened once: images, teachers, and the identity of the store."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops, whole_image
from fkd.data.sources import ImageSource, load, open_source
from fkd.errors import ImageError
from fkd.labeling.config import (
    LabelConfig,
    LabelMapsConfig,
    LabelRunConfig,
    all_teachers,
    resolve_autocast,
    resolve_batch_size,
    resolve_device,
    stored_codec,
)
from fkd.labeling.identity import label_identity, label_maps_identity
from fkd.labeling.labels import LabeledBatch, ShardShape, TeacherLabeler
from fkd.labeling.pipeline import ImageRow, Parallelism, PreparedImage, run_stages
from fkd.labels.codecs import TopKLogits
from fkd.models.dense import DenseTeacher
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherConfig, TeacherEnsemble, load_teachers

_GPU_PASSES = 2  # while one waits for its result, the other is queued


@dataclass(frozen=True)
class RandomCrops:
    """Random crops of every image, each with a label of its own."""

    config: LabelConfig
    source: ImageSource

    @property
    def per_image(self) -> int:
        """M, inputs of the teachers for each image."""
        return self.config.num_crops

    def sample(self, position: int, size: tuple[int, int]) -> CropRecords:
        """The records (M,) of an image, given its position in the source, its height and width."""
        return sample_crops(
            self.config.crops,
            self.source.key(position),
            size,
            np.arange(self.per_image),
            self.config.teacher_augment,
        )


@dataclass(frozen=True)
class WholeImages:
    """Every image as a whole, for a label map."""

    per_image: int = 1

    def sample(self, position: int, size: tuple[int, int]) -> CropRecords:
        """One record: all of an image of this height and width."""
        return whole_image(size)


@dataclass(frozen=True, kw_only=True)
class LabelSetup:
    """Everything that labeling needs besides a place to write.

    Attributes:
        config: the settings of the run.
        source: the images.
        teachers: the models, loaded.
        device: where they run.
        parallelism: batch size, and how much is done side by side.
        store_config: the identity of the store.
        crops: what of an image goes through the teachers.
        labeler: teachers and codec as one function of batches.
        shape: the axes of the store's shards.
    """

    config: LabelRunConfig
    source: ImageSource
    teachers: TeacherEnsemble
    device: torch.device
    parallelism: Parallelism
    store_config: dict[str, Any]
    crops: RandomCrops | WholeImages
    labeler: TeacherLabeler
    shape: ShardShape

    @property
    def autocast(self) -> Autocast | None:
        """The half precision of the forward passes, None for exact ones."""
        return self.labeler.autocast

    def prepare(self, place: tuple[int, int]) -> PreparedImage:
        """Decode an image, given as (shard, position in the source), and sample its crops."""
        shard, i = place
        key, name = self.source.key(i), self.source.name(i)
        try:
            loaded = load(self.source, i)
        except ImageError as error:
            return PreparedImage(shard, ImageRow(key, name, reason=str(error)), None)
        size = (loaded.image.shape[1], loaded.image.shape[2])
        records = self.crops.sample(i, size)
        row = ImageRow(key, name, loaded.crc32, loaded.num_bytes, size, records)
        return PreparedImage(shard, row, loaded.image)

    def label(self, places: Iterable[tuple[int, int]]) -> Generator[LabeledBatch, None, None]:
        """Labeled batches of the images at these places (shard, position), in order.

        Raises:
            TeacherError: the teacher's output cannot be used.
        """
        return run_stages(places, self.prepare, self.teachers.views, self.labeler, self.parallelism)


def build_setup(config: LabelConfig, passes: int, local_rank: int = 0) -> LabelSetup:
    """Open the images and load the teachers of a run that labels random crops.

    Args:
        config: the settings.
        passes: forward passes side by side on a CPU.
        local_rank: number of this process on its machine, which picks the GPU.

    Raises:
        ConfigError: a setting does not fit the images, the teachers or this machine.
        TeacherError: a teacher cannot be loaded.
    """
    source, teachers, device = _open(config, all_teachers(config), local_rank)
    parallelism = resolve_parallelism(config, passes, device)
    store_config = label_identity(config, source, teachers, parallelism.batch_size)
    codec, num_classes = stored_codec(config), len(teachers.class_names)
    return LabelSetup(
        config=config,
        source=source,
        teachers=teachers,
        device=device,
        parallelism=parallelism,
        store_config=store_config,
        crops=RandomCrops(config, source),
        labeler=TeacherLabeler(
            teachers, codec, store_config.get("value_dtype"), resolve_autocast(config)
        ),
        shape=ShardShape(
            config.num_crops,
            codec.num_ids(num_classes),
            codec.num_values(num_classes),
            config.teacher_augment.columns,
        ),
    )


def build_maps_setup(config: LabelMapsConfig, passes: int, local_rank: int = 0) -> LabelSetup:
    """Open the images and load the teacher of a run that makes label maps; as `build_setup`.

    Raises:
        TeacherError: besides, the teacher's classifier is no linear function of mean features.
    """
    source, teachers, device = _open(config, [config.teacher], local_rank)
    parallelism = resolve_parallelism(config, passes, device)
    dense = DenseTeacher(teachers.teachers[0])
    codec = TopKLogits(config.top_k)
    return LabelSetup(
        config=config,
        source=source,
        teachers=teachers,
        device=device,
        parallelism=parallelism,
        store_config=label_maps_identity(
            config, source, teachers, dense.grid, parallelism.batch_size
        ),
        crops=WholeImages(),
        labeler=TeacherLabeler(teachers, codec, config.value_dtype, None, dense),
        shape=ShardShape(dense.grid[0] * dense.grid[1], config.top_k, config.top_k, {}, dense.grid),
    )


def resolve_parallelism(config: LabelRunConfig, passes: int, device: torch.device) -> Parallelism:
    """Batch size and how much is done side by side; `passes` is for a CPU."""
    side_by_side = passes if device.type == "cpu" else _GPU_PASSES
    batch_size = resolve_batch_size(config.batch_size, device)
    return Parallelism(batch_size, side_by_side, config.num_workers)


def _open(
    config: LabelRunConfig, teachers: list[TeacherConfig], local_rank: int
) -> tuple[ImageSource, TeacherEnsemble, torch.device]:
    """The images, and the teachers on their device."""
    source = open_source(config.images)
    device = resolve_device(config.device, local_rank)
    names = source.class_names if config.classes == "dataset" else None
    return source, load_teachers(teachers, class_names=names, device=device), device
