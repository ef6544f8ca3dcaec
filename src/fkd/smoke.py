"""Any recipe in seconds: its settings on a handful of generated images, through the same code.

Kept are the student, the method and its options, the optimizer, the shape of the schedule, mixing,
augmentations, m, and the codec of the labels. Made small are images, crops, batches and epochs, and
teachers become a tiny network with random weights. What comes out shows that a recipe runs; its
accuracy means nothing.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image

from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labeling.run import label, label_maps
from fkd.methods import find_method
from fkd.models.teacher import TeacherConfig
from fkd.training.config import TrainConfig, all_teachers, crop_source_kind

TEACHER = "test_resnet"
_SIDE = 32  # pixels of a crop: the least that networks with five halvings take
_MAP_SIDE = 96  # pixels of a whole image: maps of 3 x 3 cells
_CLASSES = [f"class{number:02}" for number in range(12)]  # the largest codec of the paper keeps 10
_IMAGES_PER_CLASS = 1
_BATCH_SIZE = 16
_MOST_WARMUP = 1


def smoke_settings(
    config: TrainConfig, labels: LabelConfig | LabelMapsConfig | None, folder: Path
) -> TrainConfig:
    """The settings of a small run like `config`; everything that it needs is made in `folder`.

    Args:
        config: the recipe.
        labels: how its label store is made; needed where it replays one, or pools label maps.
        folder: new or empty; images, teacher, labels and the run go there.

    Raises:
        ConfigError: a store is needed, and nothing says how it is made.
    """
    images = _write_images(folder / "images")
    teachers = [_small_teacher(folder, teacher) for teacher in all_teachers(config)]
    store = None
    if find_method(config.method).reads_maps:
        store = _make_maps(config, labels, images, folder)
    elif crop_source_kind(config) == "stored":
        store = _label(config, labels, images, folder)
    m, warmup = config.crops_per_image, min(config.schedule.warmup_epochs, _MOST_WARMUP)
    return replace(
        config,
        out=str(folder / "run"),
        images=images,
        val=None if config.val is None else images,
        store=store,
        teacher=None,
        teachers=teachers,
        student=replace(
            config.student,
            pretrained=False,
            checkpoint=None,
            new_head=False,
            input_size=_SIDE,
        ),
        epochs=warmup + m + 2,  # one pass with m crops, and two of the ending with single crops
        batch_size=_BATCH_SIZE,
        accumulate_steps=1,
        optimizer=_smaller_steps(config),
        schedule=_shorter(config.schedule, warmup),
        max_images=None,
        num_workers=0,
        log_every=1,
    )


def _smaller_steps(config: TrainConfig) -> OptimizerConfig:
    """The learning rate of a smaller batch: in proportion, as a large one explodes on noise."""
    share = min(1.0, _BATCH_SIZE / config.batch_size)
    return replace(config.optimizer, lr=config.optimizer.peak_lr * share)


def _shorter(schedule: ScheduleConfig, warmup: int) -> ScheduleConfig:
    """The same curve with a shorter warm-up; milestones that are epochs are never reached."""
    return replace(schedule, warmup_epochs=warmup)


def _label(
    config: TrainConfig,
    labels: LabelConfig | LabelMapsConfig | None,
    images: ImagesConfig,
    folder: Path,
) -> str:
    """A store like that of the recipe; its folder."""
    if not isinstance(labels, LabelConfig):
        raise ConfigError(
            "labels: a smoke run makes its own label store and must know how; name the settings of "
            "`fkd label`, e.g. --labels recipes/imagenet/labels/effl2-m500-ms5.yaml"
        )
    wanted = [labels.teacher] if labels.teacher is not None else labels.teachers
    small = replace(
        labels,
        images=images,
        out=str(folder / "labels"),
        teacher=None,
        teachers=[_small_teacher(folder, teacher) for teacher in wanted],
        num_crops=max(config.crops_per_image, 2),
        batch_size=None,
        numerics="exact",
        autocast=None,
        min_accuracy=None,
        accuracy_images=0,
        device=config.device,
    )
    return label(small).path


def _make_maps(
    config: TrainConfig,
    labels: LabelConfig | LabelMapsConfig | None,
    images: ImagesConfig,
    folder: Path,
) -> str:
    """A store of label maps like that of the recipe; its folder."""
    if not isinstance(labels, LabelMapsConfig):
        raise ConfigError(
            "maps: a smoke run makes its own label maps and must know how; name the settings of "
            "`fkd label-maps`, e.g. --maps recipes/imagenet/labels/effl2-maps.yaml"
        )
    small = replace(
        labels,
        images=images,
        out=str(folder / "labels"),
        teacher=_small_teacher(folder, labels.teacher, _MAP_SIDE),
        batch_size=None,
        min_accuracy=None,
        accuracy_images=0,
        device=config.device,
    )
    return label_maps(small).path


def _small_teacher(folder: Path, wanted: TeacherConfig, side: int = _SIDE) -> TeacherConfig:
    """A network with random weights in the place of a teacher, with its weight and temperature."""
    weights, names = folder / "teacher.safetensors", folder / "classes.json"
    if not weights.exists():
        torch.manual_seed(0)
        model = timm.create_model(TEACHER, num_classes=len(_CLASSES))
        safetensors.torch.save_file(model.state_dict(), weights)
        names.write_text(json.dumps(_CLASSES))
    return TeacherConfig(
        TEACHER,
        checkpoint=str(weights),
        class_names=str(names),
        input_size=side,
        weight=wanted.weight,
        temperature=wanted.temperature,
    )


def _write_images(folder: Path) -> ImagesConfig:
    """Class folders of small JPEGs, each a color of its class under noise."""
    draw = np.random.default_rng(0)
    for name in _CLASSES:
        (folder / name).mkdir(parents=True)
        color = draw.integers(0, 128, 3)
        for number in range(_IMAGES_PER_CLASS):
            height, width = draw.integers(36, 56, 2)
            pixels = color + draw.integers(0, 128, (height, width, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.jpg")
    return ImagesConfig(root=str(folder))
