"""What a labeling run works with, opened once: images, teachers, and the identity of the store."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fkd.crops.replay import sample_crops, whole_image
from fkd.data.class_sets import is_multi_label as has_class_sets
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImageSource, load, open_source
from fkd.data.subset import spread
from fkd.errors import ConfigError, ImageError
from fkd.labeling.config import (
    LabelConfig,
    LabelMapsConfig,
    all_teachers,
    compiles,
    resolve_autocast,
    resolve_batch_size,
)
from fkd.labeling.identity import label_identity, label_maps_identity
from fkd.labeling.labels import LabeledBatch, TeacherLabeler
from fkd.labeling.pipeline import ImageRow, Parallelism, PreparedImage, run_stages
from fkd.labeling.standardize import standardize
from fkd.labels.sampled import Sampled, draw_labels
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.models.compiling import require_compiler
from fkd.models.dense import DenseTeacher
from fkd.models.devices import resolve_device
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.modules import TeacherModule
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.randomness import stream_key
from fkd.store.config import StoreConfig

_GPU_PASSES = 2  # while one waits for its result, the other is queued


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
        labeler: teachers and codec as one function of batches.
    """

    config: LabelConfig | LabelMapsConfig
    source: ImageSource
    teachers: TeacherEnsemble
    device: torch.device
    parallelism: Parallelism
    store_config: StoreConfig
    labeler: TeacherLabeler

    @property
    def passes_per_image(self) -> int:
        """Inputs of the teachers for each image: its M crops, or the whole of it for a map."""
        return 1 if isinstance(self.config, LabelMapsConfig) else self.config.num_crops

    def prepare(self, place: tuple[int, int]) -> PreparedImage:
        """Decode an image, given as (shard, position in the source), and sample its crops."""
        shard, i = place
        key, name = self.source.key(i), self.source.name(i)
        try:
            loaded = load(self.source, i)
        except ImageError as error:
            return PreparedImage(shard, ImageRow(key, name, reason=str(error)), None)
        size = loaded.size
        if isinstance(self.config, LabelMapsConfig):
            records = whole_image(size)
        else:
            numbers = np.arange(self.config.num_crops)
            augment = self.config.teacher_augment
            content = loaded.content_key
            records = sample_crops(self.config.crops, content, size, numbers, augment)
        draws = self._draw_labels(loaded.content_key)
        row = ImageRow(key, name, loaded.crc32, loaded.num_bytes, size, records, draws=draws)
        return PreparedImage(shard, row, loaded.image)

    def _draw_labels(self, content_key: bytes) -> np.ndarray | None:
        """Random numbers of the labels of an image's crops, from the stream of its crops."""
        if isinstance(self.config, LabelMapsConfig) or not isinstance(
            self.store_config.codec, Sampled
        ):
            return None
        stream = stream_key(self.config.crops.seed, content_key)
        return draw_labels(stream, np.arange(self.config.num_crops))

    def label(self, places: Iterable[tuple[int, int]]) -> Generator[LabeledBatch, None, None]:
        """Labeled batches of the images at these places (shard, position), in order.

        Raises:
            TeacherError: the teacher's output cannot be used.
        """
        return run_stages(places, self.prepare, self.teachers.views, self.labeler, self.parallelism)


@dataclass(frozen=True)
class Given:
    """What a program has instead of what the settings name.

    Attributes:
        source: the images.
        teachers: the teachers; of each, the settings have name, output, weight and temperature.
    """

    source: ImageSource
    teachers: Sequence[TeacherConfig | TeacherModule]


def build_setup(
    config: LabelConfig | LabelMapsConfig,
    passes: int,
    local_rank: int = 0,
    given: Given | None = None,
) -> LabelSetup:
    """Open the images and load the teachers.

    Args:
        config: the settings.
        passes: forward passes side by side on a CPU.
        local_rank: number of this process on its machine, which picks the GPU.
        given: images and teachers that are there already.

    Raises:
        ConfigError: a setting does not fit the images, the teachers or this machine.
        TeacherError: a teacher cannot be loaded; for label maps besides, its classifier is no
            linear function of mean features.
    """
    images = open_source(config.images) if given is None else given.source
    source = spread(images, config.max_images)
    device = resolve_device(config.device, local_rank)
    if compiles(config):
        require_compiler(device)
    of_dataset = config.classes == "dataset" and source.class_names is not None
    if of_dataset and any(t.output != "logits" for t in all_teachers(config)):
        raise ConfigError("classes: features are no classes; leave out --classes dataset")
    class_names = partial(class_names_among, source) if of_dataset else None
    are_ids = bool(getattr(source, "classes_are_numbers", False))
    teachers = load_teachers(
        all_teachers(config) if given is None else given.teachers,
        class_names=class_names,
        image_classes=None if are_ids else source.class_names,
        device=device,
    )
    if config.min_accuracy is not None and not teachers.is_classifier:
        raise ConfigError(
            "min_accuracy: the teacher gives features, which are no classes; leave it out"
        )
    parallelism = Parallelism(
        resolve_batch_size(config.batch_size, device),
        passes if device.type == "cpu" else _GPU_PASSES,
        config.num_workers,
    )
    if isinstance(config, LabelMapsConfig):
        maps = DenseTeacher(teachers.teachers[0])
        identity = label_maps_identity(config, source, teachers, maps.grid, parallelism.batch_size)
    else:
        maps = None
        if compiles(config):
            teachers.compile(parallelism.batch_size, resolve_autocast(config))
        teachers = standardize(teachers, config, source, parallelism.batch_size)
        identity = label_identity(config, source, teachers, parallelism.batch_size)
    store_config = StoreConfig.parse(identity, "the config")
    return LabelSetup(
        config=config,
        source=source,
        teachers=teachers,
        device=device,
        parallelism=parallelism,
        store_config=store_config,
        labeler=TeacherLabeler(store_config, teachers, maps),
    )


def remarks_on_codec(setup: LabelSetup) -> list[str]:
    """A remark where images have several classes each and labels share one probability."""
    codec = setup.store_config.codec
    if not (has_class_sets(setup.source) and setup.teachers.is_classifier):
        return []
    if is_multi_label(codec) or setup.store_config.grid is not None:
        return []
    return [
        f"the images have several classes each, and codec {codec.name} takes the teacher's "
        "softmax; a multi-label teacher, which was trained with sigmoids, needs --codec sigmoid:K"
    ]
