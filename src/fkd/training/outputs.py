"""What the student of a run gives, classes or embeddings, and whether its store fits that."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fkd.data.banks import draw_bank
from fkd.data.class_sets import is_multi_label as has_class_sets
from fkd.data.sources import ImageSource
from fkd.errors import ConfigError
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.methods import METHODS, find_method
from fkd.models.ensemble import TeacherEnsemble
from fkd.store import LabelStore
from fkd.training.config import TrainConfig


@dataclass(frozen=True)
class StudentOutputs:
    """The outputs of a student.

    Attributes:
        width: how many.
        class_names: of all of them; none of embeddings.
        are_embeddings: whether they are embeddings.
    """

    width: int
    class_names: list[str]
    are_embeddings: bool


def require_fitting_store(config: TrainConfig, store: LabelStore | None) -> None:
    """Refuse a store of classes for a method that learns embeddings, and the other way round.

    Raises:
        ConfigError: names the store and the methods that it is for.
    """
    learns_embeddings = find_method(config.method).learns_embeddings
    if store is None or store.is_of_classes != learns_embeddings:
        return
    if learns_embeddings:
        raise ConfigError(
            f"store: {store.path} holds labels of classes, and method {config.method} learns "
            "embeddings; use method fkd, or label with --teacher.output features"
        )
    raise ConfigError(
        f"store: {store.path} holds embeddings of a teacher, which are no classes, and method "
        f"{config.method} learns classes; use method {_users('stored')}"
    )


def _users(crop_source: str) -> str:
    """The methods that learn the embeddings of a store, or those of an online teacher."""
    users = [
        name
        for name, method in METHODS.items()
        if method.learns_embeddings
        and method.crop_source == crop_source
        and (method.needs_teacher or crop_source == "stored")
    ]
    return " or ".join(users)


def find_outputs(
    config: TrainConfig,
    images: ImageSource,
    store: LabelStore | None,
    teacher: TeacherEnsemble | None,
) -> StudentOutputs:
    """The outputs of the store, else of the teacher, else what the images or the settings say.

    Raises:
        ConfigError: the student is to learn classes, and nothing has any, or the teacher has none.
    """
    if find_method(config.method).learns_embeddings:
        if teacher is not None:
            return StudentOutputs(len(teacher.class_names), [], True)
        width = config.contrast.dim if store is None else store.num_classes
        return StudentOutputs(width, [], True)
    if teacher is not None and not teacher.is_classifier:
        raise ConfigError(
            f"teacher.name: {teacher.teachers[0].name} gives embeddings, which are no classes, and "
            f"method {config.method} learns classes; use method {_users('fresh')}, or a teacher "
            "with a classifier (--teacher.output logits)"
        )
    if store is not None:
        names = list(store.class_names)
    else:
        names = list(teacher.class_names) if teacher is not None else require_class_names(images)
    return StudentOutputs(len(names), names, False)


def learns_multi_label(config: TrainConfig, images: ImageSource, store: LabelStore | None) -> bool:
    """Whether the student of a run learns each class by itself.

    The labels of a store decide it where these are learned, else the setting, else what the classes
    of the images are.

    Raises:
        ConfigError: the setting, the store, the images and the method do not fit each other.
    """
    method = find_method(config.method)
    labels_are = store is not None and store.is_of_classes and is_multi_label(store.codec)
    reads_labels = method.crop_source == "stored" and not method.learns_embeddings
    if reads_labels and config.multi_label not in (None, labels_are):
        assert store is not None
        raise ConfigError(
            f"multi_label: the {store.codec.name} labels of {store.path} are "
            f"{'' if labels_are else 'not '}multi-label; leave it out"
        )
    chosen = config.multi_label
    if chosen is None:
        chosen = labels_are if reads_labels else labels_are or has_class_sets(images)
        chosen &= method.learns_multi_label or reads_labels
    if chosen and not method.learns_multi_label:
        users = ", ".join(name for name, kind in METHODS.items() if kind.learns_multi_label)
        raise ConfigError(f"method: {config.method} learns no multi-label labels; use {users}")
    _require_fitting_truth(config, images, chosen)
    return chosen


def _require_fitting_truth(config: TrainConfig, images: ImageSource, multi_label: bool) -> None:
    """Refuse one true class where several are learned, and the other way round."""
    uses, of_several = find_method(config.method).uses, has_class_sets(images)
    weighs = "soft_weight" in uses
    needs_truth = "label_smoothing" in uses and (config.soft_weight < 1.0 or not weighs)
    if not needs_truth or of_several == multi_label or images.class_names is None:
        return
    remedy = "use soft_weight 1" if weighs else "use method vanilla"
    raise ConfigError(
        f"method: {config.method} learns the true classes, and the images in {images.root} have "
        f"{'several' if of_several else 'one'} each, but the student learns "
        f"{'several' if multi_label else 'one'}; {remedy}, without multi_label"
    )


def require_class_names(images: ImageSource) -> list[str]:
    """The classes of the images.

    Raises:
        ConfigError: they have none.
    """
    if images.class_names is None:
        raise ConfigError(f"images.root: {images.root} has no classes; use images in class folders")
    return images.class_names


def open_bank(config: TrainConfig, store: LabelStore | None, rows: np.ndarray) -> Tensor | None:
    """The bank of a run whose loss compares with one, float32 (N, D); None for others.

    Args:
        config: of the run.
        store: of embeddings.
        rows: of the images that it trains on.
    """
    method = find_method(config.method)
    if store is None or config.ssl.loss != "bank" or method.crop_source != "stored":
        return None  # a method with another teacher refuses the loss itself
    return draw_bank(store, rows, config.ssl.bank_size, config.seed)
