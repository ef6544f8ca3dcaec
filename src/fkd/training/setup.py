"""What a run is made of: images, labels, teacher, student; whatever can be wrong shows here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fkd.crops.replay import InputSpec
from fkd.data.batches import CropCutter
from fkd.data.calibrated import CalibratedCropSource, Survey, survey
from fkd.data.canary import check_canaries
from fkd.data.crop_sources import CropSource, FreshCropSource, StoredCropSource
from fkd.data.decode import Decoder
from fkd.data.decoders import DecoderReport, choose_decoder
from fkd.data.joining import Join, join_store, map_classes, true_classes
from fkd.data.maps import MapCropSource
from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD
from fkd.data.sources import ImageSource, open_source
from fkd.errors import ConfigError
from fkd.evaluation import LabeledImages
from fkd.labels.calibration import calibrates
from fkd.labels.codec_names import with_teacher_weights, with_temperature
from fkd.methods import Method, MethodInputs, find_method
from fkd.models.checkpoints import ModelCard
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import Preprocessing, has_fixed_input_size
from fkd.models.teacher import TeacherEnsemble, load_teachers
from fkd.models.zoo import load_model
from fkd.randomness import Purpose, permutations, stream_key
from fkd.store import LabelStore, keys_digest
from fkd.training.config import TrainConfig, all_teachers, crop_source_kind, fresh_crops

_SUBSET = b"max_images"  # names the stream that picks them


@dataclass(frozen=True, kw_only=True)
class TrainSetup:
    """Everything that a run needs besides an engine and a folder.

    Attributes:
        store: the label store, where one is used.
        teacher: asked online, where the method does.
        class_names: of the student's outputs.
        chosen: positions of the images to train on, int64.
        student: the network, with its initial weights.
        card: how to build and feed it.
        method: gives targets and loss.
        cutter: builds the batches.
        decoder: who decodes the images, and how its pixels compare.
        calibration: what became of which stored crops, where they are calibrated.
        validation: what accuracy is measured on, if anything.
        data: JSON object that identifies the data by content.
    """

    store: LabelStore | None
    teacher: TeacherEnsemble | None
    class_names: list[str]
    chosen: np.ndarray
    student: nn.Module
    card: ModelCard
    method: Method
    cutter: CropCutter
    decoder: DecoderReport
    calibration: Survey | None
    validation: LabeledImages | None
    data: dict[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        """The student's input."""
        return self.card.preprocessing


def build_setup(config: TrainConfig, device: torch.device) -> TrainSetup:
    """Open, load and build everything, and check that it fits together.

    Raises:
        FKDError: something is missing, damaged, unknown, or does not fit; says what and the way
            out.
    """
    images = open_source(config.images)
    decoder = choose_decoder(images, config.decoder)
    store = None if config.store is None else LabelStore.open(config.store)
    teacher = _load_teacher(config, images, store, device)
    class_names = _class_names(config, images, store, teacher)
    views, chosen, calibration = _open_views(config, images, store, decoder.decoder)
    student, card = _build_student(config, len(class_names))
    view = InputSpec(card.preprocessing.input_size, config.student.interpolation)
    method = find_method(config.method)(
        MethodInputs(
            num_classes=len(class_names),
            student=view._replace(augmented=bool(config.student_augment.columns)),
            temperature=config.temperature,
            soft_weight=config.soft_weight,
            label_smoothing=config.label_smoothing,
            teacher=teacher,
            deit=config.deit,
            mealv2=config.mealv2,
            relabel=config.relabel,
        )
    )
    method.begin(student)
    cutter = CropCutter(
        images,
        views,
        method.formats,
        class_ids=map_classes(images.class_names, class_names),
        student_augment=config.student_augment,
        seed=config.seed,
        decoder=decoder.decoder,
    )
    chosen = _choose(chosen, config)
    if method.needs_classes:
        _require_unmixed(store, "soft_weight")
        truth = true_classes(images, map_classes(images.class_names, class_names))
        _require_classes(images, truth, chosen, "method fkd or kd with soft_weight 1")
    validation = None
    if config.val is not None:
        validation = LabeledImages.match(open_source(config.val), class_names)
    return TrainSetup(
        store=store,
        teacher=teacher,
        class_names=class_names,
        chosen=chosen,
        student=student,
        card=card,
        method=method,
        cutter=cutter,
        decoder=decoder,
        calibration=calibration,
        validation=validation,
        data=_identify(images, store, teacher, validation),
    )


def _load_teacher(
    config: TrainConfig, images: ImageSource, store: LabelStore | None, device: torch.device
) -> TeacherEnsemble | None:
    if not all_teachers(config):
        return None
    classes: Sequence[str] | None = None
    if store is not None:
        classes = store.class_names
    elif config.classes == "dataset":
        classes = _classes_of(images)
    return load_teachers(all_teachers(config), class_names=classes, device=device)


def _class_names(
    config: TrainConfig,
    images: ImageSource,
    store: LabelStore | None,
    teacher: TeacherEnsemble | None,
) -> list[str]:
    """The classes of the student: the store's, else the teacher's, else the images'."""
    if store is not None:
        return list(store.class_names)
    return list(teacher.class_names) if teacher is not None else _classes_of(images)


def _classes_of(images: ImageSource) -> list[str]:
    if images.class_names is None:
        raise ConfigError(f"images.root: {images.root} has no classes; use images in class folders")
    return images.class_names


def _open_views(
    config: TrainConfig, images: ImageSource, store: LabelStore | None, decoder: Decoder
) -> tuple[CropSource, np.ndarray, Survey | None]:
    """Where crops come from, positions of the images that have them, which labels are trusted."""
    reads_maps = find_method(config.method).reads_maps
    if crop_source_kind(config) == "fresh" and not reads_maps:
        return (
            FreshCropSource(images, fresh_crops(config), config.augment),
            np.arange(len(images)),
            None,
        )
    assert store is not None  # TrainConfig sees to it
    join = join_store(images, store)
    if len(join.labeled) == 0:
        raise ConfigError(f"store: no image of {store.path} was readable; label other images")
    views: CropSource
    calibration: Survey | None = None
    if reads_maps:
        crops = fresh_crops(config)
        views = MapCropSource(images, store, crops, config.relabel, config.augment)
    else:
        views, calibration = _stored_views(config, images, store, join)
    if store.canaries:  # imported stores have none
        check_canaries(store, images, decoder)
    return views, join.labeled, calibration


def _stored_views(
    config: TrainConfig, images: ImageSource, store: LabelStore, join: Join
) -> tuple[StoredCropSource, Survey | None]:
    """Crops of the store, as the settings order and decode and trust them."""
    codec = with_teacher_weights(
        with_temperature(store.codec, config.label_temperature), config.teacher_weights or None
    )
    options: dict[str, Any] = {
        "crops_per_image": config.crops_per_image,
        "offset": config.schedule.warmup_epochs,
        "seed": config.seed,
        "order": config.order,
        "codec": codec,
    }
    if not calibrates(config.calibration):
        return StoredCropSource(images, store, **options), None
    _require_unmixed(store, "calibration")
    truth = true_classes(images, join.class_ids)
    _require_classes(images, truth, join.labeled, "leave calibration out")
    found = survey(store, codec, config.calibration, join.labeled, truth[join.labeled])
    smoothing = config.calibration.smoothing
    views = CalibratedCropSource(
        images, store, truth=truth, survey=found, smoothing=smoothing, **options
    )
    return views, found


def _choose(positions: np.ndarray, config: TrainConfig) -> np.ndarray:
    """At most `max_images` of the positions, a random choice that depends on the seed alone."""
    if config.max_images is None or config.max_images >= len(positions):
        return positions
    stream = stream_key(config.seed, _SUBSET)
    order = permutations(stream, Purpose.IMAGE_ORDER, 0, len(positions))
    chosen: np.ndarray = positions[np.sort(order[: config.max_images])]
    return chosen


def _require_unmixed(store: LabelStore | None, option: str) -> None:
    if store is not None and "stored_mixing" in store.config:
        raise ConfigError(
            f"{option}: crops of {store.path} are mixed and have no true class; leave {option} "
            "out, or use a store without stored_mixing"
        )


def _require_classes(
    images: ImageSource, truth: np.ndarray, positions: np.ndarray, way_out: str
) -> None:
    unknown = positions[truth[positions] < 0]
    if len(unknown):
        raise ConfigError(
            f"the true class of every image is needed, but {len(unknown)} of {len(positions)} lack "
            f"one (first: {images.name(int(unknown[0]))}); use images in folders named as the "
            f"classes, or {way_out}"
        )


def _build_student(config: TrainConfig, num_classes: int) -> tuple[nn.Module, ModelCard]:
    wanted = config.student
    drops = {"drop_rate": wanted.drop_rate, "drop_path_rate": wanted.drop_path_rate}
    torch.manual_seed(config.seed)
    loaded = load_model(
        wanted.name,
        num_classes=num_classes,
        pretrained=wanted.pretrained,
        checkpoint=wanted.checkpoint,
        new_head=wanted.new_head,
        input_size=wanted.input_size,
        **{name: rate for name, rate in drops.items() if rate > 0},
    )
    preprocessing = replace(loaded.preprocessing, interpolation=wanted.interpolation)
    if wanted.normalization == "imagenet":
        preprocessing = replace(preprocessing, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    sized = has_fixed_input_size(parse_model_name(loaded.name))
    kwargs = {"img_size": preprocessing.input_size} if sized else {}
    return loaded.model, ModelCard(loaded.name, num_classes, preprocessing, kwargs)


def _identify(
    images: ImageSource,
    store: LabelStore | None,
    teacher: TeacherEnsemble | None,
    validation: LabeledImages | None,
) -> dict[str, Any]:
    """What the data are, by content: paths may change, these must not."""

    def describe(source: ImageSource) -> dict[str, Any]:
        keys = [source.key(i) for i in range(len(source))]
        return {"num_images": len(source), "keys_sha256": keys_digest(keys)}

    return {
        "images": describe(images),
        "store_root_hash": None if store is None else store.root_hash,
        "teachers": None if teacher is None else teacher.identity(),
        "val": None if validation is None else describe(validation.source),
    }
