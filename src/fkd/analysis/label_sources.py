"""Labels of the same crops from different sources, as probabilities and their logarithms.

    truth     1 for the true class
    ReLabel   a label map of the whole image, pooled at the crop boxes of the label store
    FKD       a label store, decoded; several stores if they hold the same crops
    model     a network on the pixels of the same crops, each with its own preprocessing

All have the classes of the first store, in its order, matched by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from fkd.data.joining import join_store, map_classes
from fkd.data.sources import ImagesConfig, ImageSource, open_source
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError, StoreMismatch
from fkd.labels.arrays import decode_array
from fkd.labels.codec_names import PerTeacher
from fkd.labels.codecs import Codec, Full, Hard, Logits, MarginalRenorm
from fkd.labels.pooling import pool_maps, roi_align_weights
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LabeledCrops, LabelStore
from fkd.store.canonical import printable
from fkd.userfiles import home_path

FLOOR = 1e-12
"""What probabilities that were stored as 0 by rounding count as inside a logarithm."""


@dataclass(frozen=True)
class Distributions:
    """Labels of n crops.

    Attributes:
        p: probabilities, float64 (n, C).
        log_p: their logarithms, all finite, float64 (n, C).
    """

    p: np.ndarray
    log_p: np.ndarray

    @staticmethod
    def of_probabilities(p: np.ndarray, floor: float = FLOOR) -> "Distributions":
        """Probabilities (n, C); smaller ones count as `floor` inside the logarithm."""
        p = np.asarray(p, np.float64)
        return Distributions(p, np.log(np.maximum(p, floor)))

    @staticmethod
    def of_logits(z: torch.Tensor) -> "Distributions":
        """The softmax of logits (n, C), in float64: no probability becomes 0."""
        log_p = torch.log_softmax(z.cpu().double(), dim=1).numpy()
        return Distributions(np.exp(log_p), log_p)


@dataclass(frozen=True)
class StoredLabels:
    """A store of labels of crops, and what it takes to compare it with others.

    Attributes:
        name: in the analysis.
        store: the labels.
        columns: its class of each class of the first store, int64 (C,).
    """

    name: str
    store: LabelStore
    columns: np.ndarray

    def probabilities(self, crops: LabeledCrops) -> np.ndarray:
        """Decoded labels of crops that were read from the store, float64 (n * m, C)."""
        labels = decode_array(self.store.codec, crops.label, self.store.num_classes)
        return only_columns(labels, self.columns)


@dataclass(frozen=True)
class PooledMaps:
    """A store of label maps.

    Attributes:
        store: the maps.
        columns: its class of each class of the label store, int64 (C,).
    """

    store: LabelStore
    columns: np.ndarray

    def probabilities(self, rows: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The labels of m crops of each of B images, float64 (B * m, C).

        Args:
            rows: of the images in the store of maps, (B,).
            box: of the crops, (B, m, 4).
        """
        stored, grid = self.store.read(rows), self.store.grid
        ids, values = stored.label.ids, stored.label.values
        assert grid is not None
        assert ids is not None
        assert values is not None
        weights = roi_align_weights(box, stored.images.size[:, None], grid)
        labels = pool_maps(ids, values, weights, self.store.num_classes).dense().double().numpy()
        return only_columns(labels, self.columns)


def open_images(images: ImagesConfig, store: LabelStore) -> tuple[ImageSource, np.ndarray]:
    """The images that a store labeled, or those of them that `images` names; and their rows.

    Returns:
        The images, and the row of each, int64 (n,).

    Raises:
        StoreMismatch: they are others.
        ConfigError: there are none.
    """
    source = labeled_part(open_source(images), store)
    return source, join_store(source, store).rows


def open_labels(path: str, option: str = "store") -> LabelStore:
    """A store of labels of crops, classes of a teacher.

    Raises:
        ConfigError: it holds label maps, features, or multi-label labels.
    """
    store = LabelStore.open(home_path(path))
    if store.grid is not None:
        raise ConfigError(
            f"{option}: {store.path} holds label maps and no labels of crops; give it as --maps"
        )
    refuse_multi_label(store, option)
    if not store.is_of_classes:
        raise ConfigError(
            f"{option}: {store.path} holds features, which are no probabilities; give a store of "
            "labels of classes"
        )
    return store


def refuse_multi_label(store: LabelStore, option: str) -> None:
    """Refuse labels that are no distribution over the classes.

    Raises:
        ConfigError: each class has a probability of its own.
    """
    if is_multi_label(store.codec):
        raise ConfigError(
            f"{option}: {store.path} holds {store.codec.name} labels, in which each class has a "
            "probability of its own; this analysis compares distributions over the classes"
        )


def open_maps(path: str, reference: LabelStore) -> PooledMaps:
    """Label maps of the images of a label store.

    Raises:
        ConfigError: the store holds labels of crops.
        StoreMismatch: it lacks a class.
    """
    store = LabelStore.open(home_path(path))
    if store.grid is None:
        raise ConfigError(
            f"maps: {store.path} holds labels of crops and no label maps; make maps by "
            "`fkd label-maps`"
        )
    return PooledMaps(store, columns_of(store, reference))


def columns_of(store: LabelStore, reference: LabelStore) -> np.ndarray:
    """The class of a store that each class of another one is, by name, int64 (C,).

    Raises:
        StoreMismatch: it lacks a class.
    """
    columns = map_classes(reference.class_names, store.class_names)
    assert columns is not None
    if (columns < 0).any():
        lacks = [reference.class_names[c] for c in np.flatnonzero(columns < 0).tolist()]
        raise StoreMismatch(
            f"{store.path} lacks {len(lacks)} of the {len(columns)} classes of {reference.path}, "
            f"the first is {lacks[0]!r}; compare labels of the same classes"
        )
    return columns


def only_columns(labels: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Labels (n, classes) of these classes in this order, float64 (n, C); rows sum to 1.

    Other classes are dropped, as if none of them were possible.
    """
    if np.array_equal(columns, np.arange(labels.shape[1])):
        return labels
    chosen = labels[:, columns]
    total = chosen.sum(1, keepdims=True)
    return np.where(total > 0, chosen / np.where(total > 0, total, 1.0), 1.0 / len(columns))


def usable_images(rows: np.ndarray, store: LabelStore, others: Sequence[LabelStore]) -> np.ndarray:
    """Which of some images have labels in every store, int64 (k,), ascending.

    Args:
        rows: of the images in the store, int64 (n,).
        store: of the images.
        others: further ones.

    Raises:
        MissingLabel: one of them lacks an image.
        ConfigError: there is no such image.
    """
    usable = np.flatnonzero(store.labeled(rows))
    for other in others:
        usable = usable[other.labeled(rows_in(other, store, rows[usable], check=False))]
    if not len(usable):
        raise ConfigError(f"store: {store.path} has no labeled images to compare")
    return usable


def rows_in(
    store: LabelStore, reference: LabelStore, rows: np.ndarray, *, check: bool = True
) -> np.ndarray:
    """The rows of the same images in another store, int64 (n,).

    Args:
        store: the other one.
        reference: that the rows are of.
        rows: (n,).
        check: compare the image files that were labeled, which reads these rows of both.

    Raises:
        MissingLabel: it lacks an image.
        StoreMismatch: an image was another file when it was labeled.
    """
    same_images = store.config["keys_sha256"] == reference.config["keys_sha256"]
    found = rows if same_images else store.rows(reference.keys(rows))
    if check:
        _require_same_files(store, found, reference, rows)
    return found


def _require_same_files(
    store: LabelStore, found: np.ndarray, reference: LabelStore, rows: np.ndarray
) -> None:
    ours, theirs = reference.images(rows), store.images(found)
    differs = (ours.crc32 != theirs.crc32) | (ours.num_bytes != theirs.num_bytes)
    differs = np.flatnonzero(differs | (ours.size != theirs.size).any(1))
    if len(differs):
        (key,) = reference.keys(rows[differs[:1]])
        raise StoreMismatch(
            f"{len(differs)} images were other files when {store.path} was made than when "
            f"{reference.path} was, the first is {printable(key)}; label the same images again"
        )


def require_same_crops(
    name: str, store: LabelStore, crops: LabeledCrops, reference: LabeledCrops
) -> None:
    """Refuse labels of other crops.

    Raises:
        StoreMismatch: boxes, flips or augmentations differ.
    """
    ours, theirs = crops.records, reference.records
    same = np.array_equal(ours.box, theirs.box) and np.array_equal(ours.flip, theirs.flip)
    same &= ours.extra.keys() == theirs.extra.keys()
    same = same and all(np.array_equal(ours.extra[n], theirs.extra[n]) for n in ours.extra)
    if not same:
        raise StoreMismatch(
            f"other_stores.{name}: {store.path} holds other crops, and labels are compared on the "
            "same ones; label with the same crops.seed and settings of crops, or give the teacher "
            "of that store as one of --models"
        )


def keeps_all(codec: Codec, num_classes: int) -> bool:
    """Whether labels of a codec are all that a teacher said, but for rounding."""
    codec = codec.codec if isinstance(codec, PerTeacher) else codec
    return isinstance(codec, Full | Logits) or codec.num_values(num_classes) >= num_classes


def has_zeros(codec: Codec, num_classes: int) -> bool:
    """Whether labels of a codec are 0 for all classes that it drops, and not by rounding."""
    codec = codec.codec if isinstance(codec, PerTeacher) else codec
    return isinstance(codec, Hard | MarginalRenorm) and codec.num_ids(num_classes) < num_classes


def is_hard(codec: Codec) -> bool:
    """Whether labels of a codec name classes only, as the true classes do."""
    return isinstance(codec.codec if isinstance(codec, PerTeacher) else codec, Hard)


def load_classifiers(
    models: Mapping[str, Any], class_names: Sequence[str], device: torch.device
) -> dict[str, Teacher]:
    """Networks by the names that a user gives them, with these classes in this order.

    Args:
        models: a model name or a model folder each, or settings of a teacher.
        class_names: matched by name with the outputs of each.
        device: where they run.

    Raises:
        ConfigError: a network cannot be loaded, has no classes or does not know one.
    """
    loaded = {}
    for name, model in models.items():
        option = f"models.{name}"
        config = model_config(option, model)
        if config.output != "logits":
            raise ConfigError(
                f"{option}: {config.output} are no classes; leave out the output, or the model"
            )
        try:
            ensemble = load_teachers([config], class_names=class_names, device=device)
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from error
        loaded[name] = ensemble.teachers[0]
    return loaded


def model_config(option: str, model: Any) -> TeacherConfig:
    """What a user says of a network: its name or folder, or settings of a teacher.

    Raises:
        ConfigError: it is neither, or a setting is unknown.
    """
    if isinstance(model, str) and model:
        return TeacherConfig(name=model)
    if not isinstance(model, Mapping):
        raise ConfigError(
            f"{option}: {model!r} is no model; give the name of a network, a run folder, or "
            "settings such as {name: resnet50, checkpoint: weights.pth}"
        )
    known = {field.name for field in fields(TeacherConfig) if field.name != "_"}
    unknown = [name for name in model if name not in known]
    if unknown:
        raise ConfigError(
            f"{option}: there is no setting {unknown[0]!r} of a model; there are "
            f"{', '.join(sorted(known))}"
        )
    for name in ("name", "checkpoint"):
        if not isinstance(model.get(name), str | None):
            raise ConfigError(f"{option}.{name} is text, got {model[name]!r}")
    try:
        return TeacherConfig(**model)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error
