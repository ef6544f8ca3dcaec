"""What a run is built from: images, labels, teacher, student; opened and checked first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fkd.crops.replay import InputSpec
from fkd.data.batches import CropCutter
from fkd.data.canary import check_canaries, describe_missing_canaries
from fkd.data.class_sets import is_multi_label
from fkd.data.crop_sources import CropSource, FreshCropSource, StoredCropSource
from fkd.data.decode import Decoder
from fkd.data.decoders import DecoderReport, choose_decoder
from fkd.data.identity import identify_images
from fkd.data.joining import (
    Join,
    class_ids_among,
    describe_differing_classes,
    join_store,
    true_classes,
)
from fkd.data.maps import MapCropSource
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImageSource, open_source, remarks_of
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import LabeledImages
from fkd.evaluation.multi_label import MultiLabelImages
from fkd.evaluation.neighbors import require_halves
from fkd.labels.codec_names import with_teacher_weights, with_temperature
from fkd.methods import Method, MethodInputs, find_method
from fkd.models.cards import ModelCard
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.teacher import load_teachers
from fkd.randomness import Purpose, permutations, stream_key
from fkd.store import LabelStore
from fkd.training.config import TrainConfig, all_teachers, crop_source_kind, crops_per_image
from fkd.training.defaults import fill_defaults
from fkd.training.outputs import (
    StudentOutputs,
    find_outputs,
    learns_multi_label,
    open_bank,
    require_class_names,
    require_fitting_store,
)
from fkd.training.students import build_student

_SUBSET = b"max_images"  # names the random stream that chooses them


Validation: TypeAlias = LabeledImages | MultiLabelImages


@dataclass(frozen=True, kw_only=True)
class TrainSetup:
    """Everything that a run needs besides an engine and a folder.

    Attributes:
        class_names: of the student's outputs.
        chosen: positions of the images to train on, int64.
        student: the network, with its initial weights.
        card: its architecture and input.
        method: gives targets and losses.
        cutter: builds the batches.
        decoder: decodes the images, and how its pixels compare.
        validation: what accuracy (of images with several classes mean average precision) is
            measured on, if there are images for it.
        multi_label: whether the student learns each class by itself.
        data: JSON object that identifies the data, wherever they lie.
        remarks: what the user may want to know of the images and the store, a sentence each.
        inputs: input sizes of teachers and student side by side, for people.
    """

    class_names: list[str]
    chosen: np.ndarray
    student: nn.Module
    card: ModelCard
    method: Method
    cutter: CropCutter
    decoder: DecoderReport
    validation: Validation | None
    multi_label: bool
    data: dict[str, Any]
    remarks: list[str]
    inputs: str


@dataclass(frozen=True)
class TrainData:
    """What is trained on, as opened from the paths of the settings.

    Attributes:
        images: all of them.
        store: the label store, if there is one.
    """

    images: ImageSource
    store: LabelStore | None


def open_data(config: TrainConfig) -> TrainData:
    """The images and the store of a run.

    Raises:
        FKDError: one of them is missing or damaged.
    """
    store = None if config.store is None else LabelStore.open(config.store, partial=config.partial)
    images = open_source(config.images)
    return TrainData(images if store is None else labeled_part(images, store), store)


def fill_in(config: TrainConfig, data: TrainData) -> TrainConfig:
    """The settings of a run on these data, without defaults that depend on them."""
    num_images = min(len(data.images), config.max_images or len(data.images))
    store = data.store if crop_source_kind(config) == "stored" else None
    return fill_defaults(config, num_images, None if store is None else store.num_crops)


def build_setup(config: TrainConfig, data: TrainData, device: torch.device) -> TrainSetup:
    """Load and build everything, and check that it fits together.

    Raises:
        FKDError: something is missing, damaged, unknown, or does not fit.
    """
    images, store = data.images, data.store
    decoder = choose_decoder(images, config.decoder)
    require_fitting_store(config, store)
    teacher = _load_teacher(config, images, store, device)
    outputs = find_outputs(config, images, store, teacher)
    crops, join = _open_crops(config, images, store, decoder.decoder)
    labeled = np.arange(len(images)) if join is None else join.labeled
    chosen = _choose_images(config, labeled)
    student, card = build_student(
        config.student,
        outputs.width,
        learns_embeddings=outputs.are_embeddings,
        seed=config.seed,
    )
    bank = open_bank(config, store, chosen if join is None else join.rows[chosen])
    multi_label = learns_multi_label(config, images, store)
    method = _build_method(config, card, outputs.width, teacher, bank, multi_label)
    method.prepare_student(student)
    class_names = outputs.class_names
    class_ids = class_ids_among(images, class_names)
    if method.needs_classes and not is_multi_label(images):
        _require_classes(images, true_classes(images, class_ids), chosen)
    validation = _open_validation(config, outputs)
    cutter = CropCutter(
        images,
        crops,
        method.formats,
        class_ids=class_ids,
        student_augment=config.student_augment,
        seed=config.seed,
        decoder=decoder.decoder,
    )
    return TrainSetup(
        class_names=class_names,
        chosen=chosen,
        student=student,
        card=replace(card, multi_label=multi_label),
        method=method,
        cutter=cutter,
        decoder=decoder,
        validation=validation,
        multi_label=multi_label,
        data=_identify(images, store, teacher, validation),
        remarks=_image_remarks(images, validation, outputs)
        + _teacher_remarks(config, images, teacher, multi_label)
        + _store_remarks(store, join),
        inputs=_describe_inputs(store, teacher, card),
    )


def _describe_inputs(
    store: LabelStore | None, teacher: TeacherEnsemble | None, card: ModelCard
) -> str:
    """For example "teacher resnet50 224 pixels bicubic; student resnet18 160 pixels bilinear"."""
    labeled = store.config.get("teachers") if store is not None and teacher is None else None
    teachers = teacher.identity() if teacher is not None else labeled
    parts = [
        f"teacher {of_one.get('name')} {of_one['input_size']} pixels {of_one.get('interpolation')}"
        for of_one in (teachers if isinstance(teachers, list) else [])
        if "input_size" in of_one  # imported label maps do not tell
    ]
    own = card.preprocessing
    parts.append(f"student {card.name} {own.input_size} pixels {own.interpolation}")
    return "; ".join(parts)


def _load_teacher(
    config: TrainConfig, images: ImageSource, store: LabelStore | None, device: torch.device
) -> TeacherEnsemble | None:
    if not all_teachers(config):
        return None
    classes: Sequence[str] | Callable[[list[str]], list[str] | None] | None = None
    if store is not None:
        classes = store.class_names if store.is_of_classes else None
    elif config.classes == "dataset":
        require_class_names(images)
        classes = partial(class_names_among, images)
    teachers = load_teachers(all_teachers(config), class_names=classes, device=device)
    if config.compile:
        teachers.compile()
    return teachers


def _open_crops(
    config: TrainConfig, images: ImageSource, store: LabelStore | None, decoder: Decoder
) -> tuple[CropSource, Join | None]:
    """Where crops come from, and where the images are in the store that they come from."""
    reads_maps = find_method(config.method).reads_maps
    fresh, augment = replace(config.crops, seed=config.seed), config.teacher_augment
    if crop_source_kind(config) == "fresh" and not reads_maps:
        return FreshCropSource(images, fresh, augment), None
    assert store is not None  # TrainConfig sees to it
    join = join_store(images, store, allow_missing=config.allow_missing_images)
    if len(join.labeled) == 0:
        raise ConfigError(f"store: no image of {store.path} was readable; label other images")
    rows = join.rows
    crops: CropSource
    if reads_maps:
        swap_xy = config.relabel.swap_xy
        crops = MapCropSource(images, store, fresh, augment, swap_xy=swap_xy, rows=rows)
    else:
        crops = _stored_crops(config, images, store, rows)
    check_canaries(store, images, decoder, among=rows)
    return crops, join


def _stored_crops(
    config: TrainConfig, images: ImageSource, store: LabelStore, rows: np.ndarray
) -> StoredCropSource:
    """Crops of the store, as the settings order and decode them."""
    return StoredCropSource(
        images,
        store,
        crops_per_image=crops_per_image(config),
        offset=config.schedule.warmup_epochs,
        seed=config.seed,
        order=config.order,
        codec=with_teacher_weights(
            with_temperature(store.codec, config.label_temperature), config.teacher_weights or None
        ),
        rows=rows,
    )


def _choose_images(config: TrainConfig, positions: np.ndarray) -> np.ndarray:
    """At most `max_images` of the positions, a random choice that depends on the seed only."""
    if config.max_images is None or config.max_images >= len(positions):
        return positions
    stream = stream_key(config.seed, _SUBSET)
    order = permutations(stream, Purpose.IMAGE_ORDER, 0, len(positions))
    chosen: np.ndarray = positions[np.sort(order[: config.max_images])]
    return chosen


def _require_classes(images: ImageSource, truth: np.ndarray, positions: np.ndarray) -> None:
    unknown = positions[truth[positions] < 0]
    if len(unknown):
        raise ConfigError(
            f"the true class of every image is needed, but {len(unknown)} of {len(positions)} lack "
            f"one (first: {images.name(int(unknown[0]))}); use images in folders named as the "
            "classes, or method fkd or kd with soft_weight 1"
        )


def _build_method(
    config: TrainConfig,
    card: ModelCard,
    num_outputs: int,
    teacher: TeacherEnsemble | None,
    bank: Tensor | None,
    multi_label: bool,
) -> Method:
    kind = find_method(config.method)
    student = InputSpec(
        card.preprocessing.input_size,
        config.student.interpolation,
        augmented=bool(config.student_augment.columns),
    )
    return kind(
        MethodInputs(
            num_classes=num_outputs,
            student=student,
            normalize=card.preprocessing.normalize,
            teacher=teacher,
            temperature=config.temperature,
            soft_weight=config.soft_weight,
            label_smoothing=config.label_smoothing,
            options=None if kind.options is None else getattr(config, kind.options),
            contrast=config.contrast,
            bank=bank,
            multi_label=multi_label,
        )
    )


def _open_validation(config: TrainConfig, outputs: StudentOutputs) -> Validation | None:
    """The images that accuracy is measured on; neighbors are found among classes of any names."""
    if config.val is None:
        return None
    source = open_source(config.val)
    if not outputs.are_embeddings and is_multi_label(source):
        return MultiLabelImages.match(source, outputs.class_names)
    if not outputs.are_embeddings:
        return LabeledImages.match(source, outputs.class_names)
    images = LabeledImages.match(source, source.class_names or [])
    require_halves(images)
    return images


def _image_remarks(
    images: ImageSource, validation: Validation | None, outputs: StudentOutputs
) -> list[str]:
    """What the user may want to know of the images, and of their classes."""
    remarks = remarks_of(images)
    if validation is None:
        return remarks
    remarks += remarks_of(validation.source)
    if not outputs.are_embeddings:
        names = outputs.class_names
        known = class_names_among(images, names) or names
        difference = describe_differing_classes(validation.source, known, names)
        remarks += [difference] if difference else []
    return list(dict.fromkeys(remarks))  # both may be the same images


def _teacher_remarks(
    config: TrainConfig, images: ImageSource, teacher: TeacherEnsemble | None, multi_label: bool
) -> list[str]:
    """What the user may want to know of an online teacher of classes that share one probability."""
    is_for_one = teacher is not None and teacher.is_classifier and not multi_label
    if not (is_for_one and is_multi_label(images)) or config.multi_label is False:
        return []
    return [
        f"the images have several classes each, and method {config.method} takes the teacher's "
        "softmax; a multi-label teacher, which was trained with sigmoids, needs method kd"
    ]


def _store_remarks(store: LabelStore | None, join: Join | None) -> list[str]:
    """What the user may want to know of the store that crops come from."""
    if store is None or join is None:
        return []
    remark = describe_missing_canaries(store, join.rows)
    return [*join.remarks, remark] if remark else join.remarks


def _identify(
    images: ImageSource,
    store: LabelStore | None,
    teacher: TeacherEnsemble | None,
    validation: Validation | None,
) -> dict[str, Any]:
    """What the data are: paths may change, these must not."""
    return {
        "images": identify_images(images),
        "store_root_hash": None if store is None else store.root_hash or store.commits_hash,
        "teachers": None if teacher is None else teacher.identity(),
        "val": None if validation is None else identify_images(validation.source),
    }
