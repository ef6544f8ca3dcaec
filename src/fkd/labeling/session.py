"""What a labelling run works with, opened once: images, teachers, and the identity they make."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fkd.codecs import parse_codec
from fkd.crops import sample_crops
from fkd.data.sources import ImageSource, load, open_source
from fkd.errors import ImageError
from fkd.labeling.config import (
    LabelConfig,
    all_teachers,
    build_store_config,
    crop_config,
    resolve_autocast,
    resolve_batch_size,
    resolve_device,
)
from fkd.labeling.labels import LabelledBatch, Labeller, ShardShape
from fkd.labeling.pipeline import ImageRow, Pace, PreparedImage, run_stages
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherEnsemble, load_teachers

_GPU_PASSES = 2  # while one waits for its result, the other is queued


@dataclass(frozen=True)
class Session:
    """Everything that labelling needs besides a place to write.

    Attributes:
        config: the settings of the run.
        source: the images.
        teachers: the models, loaded.
        device: where they run.
        pace: how much is done side by side.
        store_config: the identity of the store.
    """

    config: LabelConfig
    source: ImageSource
    teachers: TeacherEnsemble
    device: torch.device
    pace: Pace
    store_config: dict[str, Any]

    @property
    def shape(self) -> ShardShape:
        """The axes of this store's shards."""
        codec, num_classes = parse_codec(self.config.codec), self.store_config["num_classes"]
        return ShardShape(
            self.config.num_crops,
            codec.num_index(num_classes),
            codec.num_values(num_classes),
            self.config.replayed.columns,
        )

    @property
    def labeller(self) -> Labeller:
        """Teachers and codec as one function of batches."""
        codec = parse_codec(self.config.codec)
        dtype = self.store_config["value_dtype"]
        return Labeller(self.teachers, codec, dtype, self.autocast)

    @property
    def autocast(self) -> Autocast | None:
        """The half precision of the forward passes, None for exact ones."""
        return resolve_autocast(self.config)

    def prepare(self, place: tuple[int, int]) -> PreparedImage:
        """Decode an image, given as (shard, position in the source), and draw its crops."""
        shard, i = place
        key, name = self.source.key(i), self.source.name(i)
        try:
            loaded = load(self.source, i)
        except ImageError as error:
            return PreparedImage(shard, ImageRow(key, name, reason=str(error)), None)
        size = (loaded.image.shape[1], loaded.image.shape[2])
        numbers = np.arange(self.config.num_crops)
        records = sample_crops(crop_config(self.config), key, size, numbers, self.config.replayed)
        row = ImageRow(key, name, loaded.crc32, loaded.num_bytes, size, records)
        return PreparedImage(shard, row, loaded.image)

    def label(self, places: Iterable[tuple[int, int]]) -> Generator[LabelledBatch, None, None]:
        """Labelled batches of the images at these places (shard, position), in order.

        Raises:
            TeacherError: the teacher's output cannot be used.
        """
        return run_stages(places, self.prepare, self.teachers.views, self.labeller, self.pace)


def open_session(config: LabelConfig, passes: int, local_rank: int = 0) -> Session:
    """Open the images and load the teachers of a run.

    Raises:
        ConfigError: a setting does not fit the images, the teachers or this machine.
        TeacherError: a teacher cannot be loaded.
    """
    source = open_source(config.images)
    device = resolve_device(config.device, local_rank)
    names = source.class_names if config.classes == "dataset" else None
    teachers = load_teachers(all_teachers(config), class_names=names, device=device)
    batch_size = resolve_batch_size(config, device)
    side_by_side = passes if device.type == "cpu" else _GPU_PASSES
    pace = Pace(batch_size, side_by_side, config.num_workers)
    store_config = build_store_config(config, source, teachers, batch_size)
    return Session(config, source, teachers, device, pace, store_config)
