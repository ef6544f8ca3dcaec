"""Any recipe in seconds: its settings on a handful of generated images, through the same code.

Kept are the student, the method and its options, the optimizer, the shape of the schedule, mixing,
augmentations, m, and the codec of the labels. Made small are images, crops, batches and epochs, and
teachers become a tiny network with random weights. What comes out shows that a recipe runs; its
accuracy means nothing.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labeling.config import all_teachers as label_teachers
from fkd.labeling.run import label, label_maps
from fkd.methods import find_method
from fkd.models.architectures.embedders import default_cfgs
from fkd.models.teacher import TeacherConfig
from fkd.training.config import TrainConfig, all_teachers, crop_source_kind, crops_per_image

TEACHER = "test_resnet"
_SIDE = 32  # pixels of a crop: the least that networks with five halvings take
_MAP_SIDE = 96  # pixels of a whole image: maps of 3 x 3 cells
_CLASSES = [f"class{number:02}" for number in range(12)]  # the largest codec of the paper keeps 10
_BATCH_SIZE, _PAPER_BATCH_SIZE = 48, 1024
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
    if find_method(config.method).reads_maps or crop_source_kind(config) == "stored":
        store = _make_store(config, labels, images, folder)
    m, warmup = crops_per_image(config), min(config.schedule.warmup_epochs, _MOST_WARMUP)
    share_of_batch = min(1.0, _BATCH_SIZE / (config.batch_size or _PAPER_BATCH_SIZE))
    return replace(
        config,
        out=str(folder / "run"),
        images=images,
        val=None if config.val is None else images,
        store=store,
        teacher=None,
        teachers=teachers,
        student=replace(
            config.student, pretrained=False, checkpoint=None, new_head=False, input_size=_SIDE
        ),
        crops_per_image=m,
        epochs=warmup + _epochs_of_two_passes(config, m),
        batch_size=_BATCH_SIZE,
        accumulate_steps=1,
        # In proportion to the batch: a large learning rate explodes on noise.
        optimizer=replace(config.optimizer, lr=config.optimizer.peak_lr * share_of_batch),
        # The same curve; its milestones, which are epochs, are never reached.
        schedule=replace(config.schedule, warmup_epochs=warmup),
        max_images=None,
        num_workers=0,
        log_every=1,
    )


def _epochs_of_two_passes(config: TrainConfig, m: int) -> int:
    """One pass with m crops, and one of the ending with single crops, where the method has one."""
    return 2 * m if find_method(config.method).needs_pairs else m + 1


def _make_store(
    config: TrainConfig,
    labels: LabelConfig | LabelMapsConfig | None,
    images: ImagesConfig,
    folder: Path,
) -> str:
    """A store of labels or label maps like that of the recipe; its folder."""
    out = str(folder / "labels")
    small: dict[str, Any] = {
        "images": images,
        "out": out,
        "batch_size": None,
        "min_accuracy": None,
        "accuracy_images": 0,
        "device": config.device,
    }
    if find_method(config.method).reads_maps:
        if not isinstance(labels, LabelMapsConfig):
            raise _labels_missing("maps", "label maps", "label-maps", "effl2-maps")
        teacher = _small_teacher(folder, labels.teacher, _MAP_SIDE)
        label_maps(replace(labels, **small, teacher=teacher))
        return out
    if not isinstance(labels, LabelConfig):
        raise _labels_missing("labels", "label store", "label", "effl2-m500-ms5")
    teachers = [_small_teacher(folder, teacher) for teacher in label_teachers(labels)]
    num_crops = max(crops_per_image(config), 2)
    small |= {"teacher": None, "teachers": teachers, "num_crops": num_crops}
    label(replace(labels, **small, numerics="exact", autocast=None, compile=False))
    return out


def _labels_missing(option: str, what: str, verb: str, file: str) -> ConfigError:
    return ConfigError(
        f"{option}: a smoke run makes its own {what} and must know how; name the settings of "
        f"`fkd {verb}`, e.g. --{option} recipes/imagenet/labels/{file}.yaml"
    )


def _small_teacher(folder: Path, wanted: TeacherConfig, side: int = _SIDE) -> TeacherConfig:
    """A network with random weights in the place of a teacher, with its weight and temperature."""
    weights, names = folder / "teacher.safetensors", folder / "classes.json"
    if not weights.exists():
        torch.manual_seed(0)
        model = timm.create_model(TEACHER, num_classes=len(_CLASSES))
        safetensors.torch.save_file(model.state_dict(), weights)
        names.write_text(json.dumps(_CLASSES))
    embeds = _gives_embeddings(wanted)
    return TeacherConfig(
        TEACHER,
        output="features" if embeds else "logits",
        checkpoint=str(weights),
        class_names=None if embeds else str(names),
        input_size=side,
        weight=wanted.weight,
        temperature=wanted.temperature,
    )


def _gives_embeddings(teacher: TeacherConfig) -> bool:
    """Whether its outputs are no classes: features, those of a head, or of an embedder."""
    embedders = {name.partition(".")[0] for name in default_cfgs}
    return teacher.output != "logits" or (teacher.name or "").partition(".")[0] in embedders


def _write_images(folder: Path) -> ImagesConfig:
    """Class folders of one small JPEG each, a color of the class under noise."""
    draw = np.random.default_rng(0)
    for name in _CLASSES:
        (folder / name).mkdir(parents=True)
        color = draw.integers(0, 128, 3)
        height, width = draw.integers(36, 56, 2)
        pixels = color + draw.integers(0, 128, (height, width, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / "0.jpg")
    return ImagesConfig(root=str(folder))
