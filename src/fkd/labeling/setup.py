"""What a labeling run works with, opened once: images, teachers, and the identity they make."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from fkd.crops.partners import Partner, Partners, partner_rows, sample_mixes, unmix
from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.data.sources import ImageSource, load, open_source
from fkd.errors import ImageError
from fkd.labeling.config import (
    LabelConfig,
    all_teachers,
    build_store_config,
    crop_config,
    label_codec,
    replayed_columns,
    resolve_autocast,
    resolve_batch_size,
    resolve_device,
)
from fkd.labeling.labels import LabeledBatch, ShardShape, TeacherLabeler
from fkd.labeling.pipeline import ImageRow, Parallelism, PreparedImage, run_stages
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherEnsemble, load_teachers
from fkd.randomness import stream_key

_GPU_PASSES = 2  # while one waits for its result, the other is queued
Draw = Callable[[bytes, tuple[int, int]], CropRecords]
DrawMixes = Callable[[int], dict[str, np.ndarray]]


class RunConfig(Protocol):
    """What every labeling run is told, whatever it labels; see `LabelConfig`."""

    @property
    def out(self) -> str:
        """Folder of the store."""

    @property
    def seed(self) -> int:
        """Picks the probes of the audit."""

    @property
    def min_accuracy(self) -> float | None:
        """The floor of the teacher's accuracy."""

    @property
    def gate_images(self) -> int:
        """Images to measure it on."""

    @property
    def max_unreadable(self) -> int:
        """Images that may be unreadable."""

    @property
    def probes(self) -> int:
        """Crops that are labeled anew at the end."""


@dataclass(frozen=True, kw_only=True)
class LabelSetup:
    """Everything that labeling needs besides a place to write.

    Attributes:
        config: the settings of the run.
        source: the images.
        teachers: the models, loaded.
        device: where they run.
        parallelism: how much is done side by side.
        store_config: the identity of the store.
        crops_per_image: what of an image goes through the teachers.
        draw: (key, size) of an image to the records of these.
        labeler: teachers and codec as one function of batches.
        shape: the axes of the store's shards.
        draw_mixes: position of an image to how its crops are mixed, see `fkd.crops.partners`.
    """

    config: RunConfig
    source: ImageSource
    teachers: TeacherEnsemble
    device: torch.device
    parallelism: Parallelism
    store_config: dict[str, Any]
    crops_per_image: int
    draw: Draw
    labeler: TeacherLabeler
    shape: ShardShape
    draw_mixes: DrawMixes = lambda position: {}

    @property
    def autocast(self) -> Autocast | None:
        """The half precision of the forward passes, None for exact ones."""
        return self.labeler.autocast

    def prepare(self, place: tuple[int, int]) -> PreparedImage:
        """Decode an image, given as (shard, position in the source), and draw its crops."""
        shard, i = place
        key, name = self.source.key(i), self.source.name(i)
        try:
            loaded = load(self.source, i)
        except ImageError as error:
            return PreparedImage(shard, ImageRow(key, name, reason=str(error)), None)
        size = (loaded.image.shape[1], loaded.image.shape[2])
        records = self.draw(key, size)
        records = replace(records, extra=records.extra | self.draw_mixes(i))
        partners, lost = self._load_partners(records)
        records = unmix(records, list(lost))
        reasons = tuple(lost.values())
        row = ImageRow(key, name, loaded.crc32, loaded.num_bytes, size, records, "", reasons)
        return PreparedImage(shard, row, loaded.image, partners)

    def _load_partners(self, records: CropRecords) -> tuple[Partners, dict[int, str]]:
        """The images that crops are mixed with, and why others cannot be read, by position."""
        partners, lost = {}, {}
        for i in partner_rows(records):
            try:
                image = load(self.source, i).image
            except ImageError as error:
                lost[i] = str(error)
            else:
                size = (image.shape[1], image.shape[2])
                partners[i] = Partner(image, self.draw(self.source.key(i), size))
        return partners, lost

    def label(self, places: Iterable[tuple[int, int]]) -> Generator[LabeledBatch, None, None]:
        """Labeled batches of the images at these places (shard, position), in order.

        Raises:
            TeacherError: the teacher's output cannot be used.
        """
        return run_stages(places, self.prepare, self.teachers.views, self.labeler, self.parallelism)


def build_setup(config: LabelConfig, passes: int, local_rank: int = 0) -> LabelSetup:
    """Open the images and load the teachers of a run.

    Raises:
        ConfigError: a setting does not fit the images, the teachers or this machine.
        TeacherError: a teacher cannot be loaded.
    """
    source = open_source(config.images)
    device = resolve_device(config.device, local_rank)
    names = source.class_names if config.classes == "dataset" else None
    teachers = load_teachers(all_teachers(config), class_names=names, device=device)
    parallelism = resolve_parallelism(config.batch_size, config.num_workers, passes, device)
    store_config = build_store_config(config, source, teachers, parallelism.batch_size)
    codec, num_classes = label_codec(config), len(teachers.class_names)
    return LabelSetup(
        config=config,
        source=source,
        teachers=teachers,
        device=device,
        parallelism=parallelism,
        store_config=store_config,
        crops_per_image=config.num_crops,
        draw=partial(_draw, config),
        labeler=TeacherLabeler(
            teachers, codec, store_config.get("value_dtype"), resolve_autocast(config)
        ),
        shape=ShardShape(
            config.num_crops,
            codec.num_ids(num_classes),
            codec.num_values(num_classes),
            replayed_columns(config),
        ),
        draw_mixes=partial(_draw_mixes, config, source),
    )


def resolve_parallelism(
    batch_size: int | None, num_workers: int, passes: int, device: torch.device
) -> Parallelism:
    """How much is done side by side; `passes` is for a CPU."""
    side_by_side = passes if device.type == "cpu" else _GPU_PASSES
    return Parallelism(resolve_batch_size(batch_size, device), side_by_side, num_workers)


def _draw(config: LabelConfig, key: bytes, size: tuple[int, int]) -> CropRecords:
    """The records of all crops of an image."""
    return sample_crops(
        crop_config(config), key, size, np.arange(config.num_crops), config.replayed
    )


def _draw_mixes(config: LabelConfig, source: ImageSource, position: int) -> dict[str, np.ndarray]:
    """How all crops of an image are mixed."""
    stream, numbers = stream_key(config.seed, source.key(position)), np.arange(config.num_crops)
    return sample_mixes(config.stored_mixing, stream, numbers, position, len(source))
