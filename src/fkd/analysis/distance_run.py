"""Measure the distances between the true classes, stored labels, label maps and models.

Setup opens and checks everything; the run decodes only images that models must see, each once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkd.analysis.distance import Distances, Source, cross_entropies, summarize_distances
from fkd.analysis.label_sources import (
    FLOOR,
    Distributions,
    PooledMaps,
    StoredLabels,
    columns_of,
    has_zeros,
    is_hard,
    keeps_all,
    load_classifiers,
    open_images,
    open_labels,
    open_maps,
    require_same_crops,
    rows_in,
    usable_images,
)
from fkd.analysis.samples import CropSample, SampleConfig, draw_sample
from fkd.checks import require_in, require_whole
from fkd.crops.replay import InputSpec, replay
from fkd.data.ahead import map_ahead
from fkd.data.identity import load_labeled
from fkd.data.sources import ImagesConfig, ImageSource, remarks_of
from fkd.errors import ConfigError
from fkd.models.devices import resolve_device
from fkd.models.single_teacher import Teacher
from fkd.store import LabelStore
from fkd.userfiles import settle_paths

TRUTH, RELABEL, FKD = "truth", "ReLabel", "FKD"
Progress = Callable[[int], None]  # so many more images are done


@dataclass(frozen=True, kw_only=True)
class DistanceConfig:
    """What is compared, on which crops.

    Attributes:
        images: the images that were labeled.
        store: folder of the label store, whose crops are looked at.
        maps: folder of a store of label maps of the same images, pooled at the boxes of the crops.
        other_stores: further label stores of the same crops by names of yours, such as
            {ms5: labels-ms5}.
        models: networks by names of yours: a model name or a run each, or settings as of a teacher,
            such as {base: resnet50, ours: runs/student, old: {name: resnet50, checkpoint: a.pth}}.
        sample: which crops.
        clamp: probabilities of mr:K labels that are 0 count as this inside the logarithm, such as
            1e-12; by default such labels are targets only.
        batch_size: crops in a forward pass.
        num_workers: threads that decode images.
        device: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is one.
        out: folder of distance.svg, distance.png and distance.json.
    """

    images: ImagesConfig
    store: str
    maps: str | None = None
    other_stores: dict[str, str] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    sample: SampleConfig = field(default_factory=SampleConfig)
    clamp: float | None = None
    batch_size: int = 32
    num_workers: int = 2
    device: str | None = None
    out: str = "analysis"

    def __post_init__(self) -> None:
        settle_paths(self, "store", "maps", "out")
        require_in("(0, 1)", "clamp", self.clamp)
        require_whole(1, "batch_size", self.batch_size)
        require_whole(0, "num_workers", self.num_workers)
        names = [TRUTH, RELABEL, FKD, *self.other_stores, *self.models]
        for name in names:
            if not name or names.count(name) > 1:
                raise ConfigError(
                    f"models, other_stores: the name {name!r} is empty or means two things; give "
                    f"each a name of its own, other than {TRUTH}, {RELABEL} and {FKD}"
                )


@dataclass(frozen=True)
class DistanceSetup:
    """Everything that a run needs, opened and checked.

    Attributes:
        config: the settings.
        images: of the store, in its order.
        stores: the labels, those of the crops first.
        maps: label maps, if there are any.
        models: networks, with the classes of the store.
        sample: the crops.
        sources: what is compared, in the order of the matrix.
        notes: what the user may want to know, a sentence each.
    """

    config: DistanceConfig
    images: ImageSource
    stores: list[StoredLabels]
    maps: PooledMaps | None
    models: dict[str, Teacher]
    sample: CropSample
    sources: list[Source]
    notes: list[str]

    @property
    def store(self) -> LabelStore:
        """The one whose crops are looked at."""
        return self.stores[0].store


def open_distance(config: DistanceConfig) -> DistanceSetup:
    """Open and check everything; load the models.

    Raises:
        ConfigError: a setting cannot work, or a model cannot be loaded.
        StoreError: a store cannot be used, or is not of these images.
    """
    device = resolve_device(config.device)
    store = open_labels(config.store)
    images, rows = open_images(config.images, store)
    stores = [StoredLabels(FKD, store, np.arange(store.num_classes))]
    for name, path in config.other_stores.items():
        other = open_labels(path, f"other_stores.{name}")
        stores.append(StoredLabels(name, other, columns_of(other, store)))
    maps = None if config.maps is None else open_maps(config.maps, store)
    every = [each.store for each in stores[1:]] + ([] if maps is None else [maps.store])
    num_crops = min(each.store.num_crops for each in stores)
    usable = usable_images(rows, store, every)
    sample = draw_sample(images, store, config.sample, usable, rows, num_crops)
    models = load_classifiers(config.models, store.class_names, device)
    sources = [
        *([] if sample.truth is None else [Source(TRUTH, "truth", "1 for the true class", _HARD)]),
        *([] if maps is None else [Source(RELABEL, "relabel", _describe_maps(maps.store))]),
        *(_source_of_store(each, config.clamp) for each in stores),
        *(Source(name, "model", str(model.name)) for name, model in models.items()),
    ]
    if all(source.undefined is not None for source in sources):
        raise ConfigError(
            f"store: {store.path} holds {store.codec.name} labels, which have no logarithm, so no "
            "distance is defined; give --maps, --models.NAME MODEL, or a store of other labels"
        )
    notes = [*remarks_of(images), *_notes(stores, sample, sources)]
    return DistanceSetup(config, images, stores, maps, models, sample, sources, notes)


def measure_distances(setup: DistanceSetup, progress: Progress | None = None) -> Distances:
    """D_{A->B} of every pair of sources, class by class; decodes each image of the sample once.

    Raises:
        CropMismatch: an image was changed since it was labeled.
        ImageError: an image cannot be read.
        StoreError: a store is damaged, or holds other crops.
        TeacherError: an output of a model is not finite.
    """
    parts = []
    for batch, crops in _with_crops(setup):
        parts.append(cross_entropies(_labels_of(setup, batch, crops)))
        if progress is not None:
            progress(len(batch))
    sample = setup.sample
    groups = np.repeat(sample.groups, sample.crops.shape[1])
    return summarize_distances(setup.sources, sample.class_names, groups, np.concatenate(parts))


def _with_crops(
    setup: DistanceSetup,
) -> Iterator[tuple[np.ndarray, dict[InputSpec, Tensor]]]:
    """Positions in the sample of some images at a time, and their crops for each kind of input."""
    per_batch = max(1, setup.config.batch_size // setup.sample.crops.shape[1])
    positions = np.arange(len(setup.sample))
    batches = [positions[i : i + per_batch] for i in range(0, len(positions), per_batch)]
    views = list(dict.fromkeys(model.view for model in setup.models.values()))

    def prepare(batch: np.ndarray) -> tuple[np.ndarray, dict[InputSpec, Tensor]]:
        return batch, _crops_of(setup, batch, views) if views else {}

    return map_ahead(prepare, batches, setup.config.num_workers if views else 0)


def _crops_of(
    setup: DistanceSetup, batch: np.ndarray, views: list[InputSpec]
) -> dict[InputSpec, Tensor]:
    """Crops uint8 (B * m, 3, S, S) of some images of the sample, for each kind of input."""
    rows = setup.sample.rows[batch]
    records = setup.store.read(rows, setup.sample.crops[batch]).records
    cut: dict[InputSpec, list[Tensor]] = {view: [] for view in views}
    for i, row in enumerate(rows.tolist()):
        image = load_labeled(setup.store, setup.images, row)
        for view in views:
            cut[view].append(replay(image, records[i], view.size, view.interpolation))
    return {view: torch.cat(crops) for view, crops in cut.items()}


def _labels_of(
    setup: DistanceSetup, batch: np.ndarray, crops: dict[InputSpec, Tensor]
) -> list[Distributions]:
    """What each source says of the crops of some images, in the order of the sources."""
    sample, store = setup.sample, setup.store
    rows, numbers = sample.rows[batch], sample.crops[batch]
    read = store.read(rows, numbers)
    labels = []
    if sample.truth is not None:
        truth = np.repeat(sample.truth[batch], numbers.shape[1])
        one_hot = np.zeros((len(truth), store.num_classes))
        one_hot[np.arange(len(truth)), truth] = 1.0
        labels.append(Distributions.of_probabilities(one_hot))
    if setup.maps is not None:
        map_rows = rows_in(setup.maps.store, store, rows)
        pooled = setup.maps.probabilities(map_rows, read.records.box)
        labels.append(Distributions.of_probabilities(pooled))
    for each in setup.stores:
        own = read
        if each.store is not store:
            own = each.store.read(rows_in(each.store, store, rows), numbers)
            require_same_crops(each.name, each.store, own, read)
        labels.append(Distributions.of_probabilities(each.probabilities(own), _floor(setup, each)))
    for model in setup.models.values():
        logits = model.logits(crops[model.view]) / model.temperature
        labels.append(Distributions.of_logits(logits))
    return labels


def _floor(setup: DistanceSetup, labels: StoredLabels) -> float:
    dropped = has_zeros(labels.store.codec, labels.store.num_classes)
    return setup.config.clamp or FLOOR if dropped else FLOOR


_HARD = "it is 0 for all classes but one, and the logarithm of 0 is not defined"


def _source_of_store(labels: StoredLabels, clamp: float | None) -> Source:
    """What a store is called, and whether its labels may stand inside a logarithm."""
    store, codec = labels.store, labels.store.codec
    teachers = " + ".join(teacher.name or "unknown" for teacher in store.provenance.teachers)
    described = f"{codec.name} {store.value_dtype or ''}".strip() + f", teacher {teachers}"
    undefined = None
    if is_hard(codec):
        undefined = _HARD
    elif has_zeros(codec, store.num_classes) and clamp is None:
        undefined = (
            f"its {codec.name} labels are 0 for all classes that they drop, and the logarithm of 0 "
            "is not defined; --clamp 1e-12 takes that instead of 0"
        )
    return Source(labels.name, "fkd", described, undefined)


def _describe_maps(store: LabelStore) -> str:
    assert store.grid is not None
    teachers = " + ".join(teacher.name or "unknown" for teacher in store.provenance.teachers)
    return f"label maps of {store.grid[0]} x {store.grid[1]} cells, teacher {teachers or 'unknown'}"


def _notes(stores: list[StoredLabels], sample: CropSample, sources: list[Source]) -> list[str]:
    """What the user may want to know of the labels and classes, a sentence each."""
    notes = []
    if sample.truth is None:
        notes.append(
            "no true class of an image is one of the store's classes, so nothing is compared with "
            "true classes"
        )
    if sample.num_unknown:
        notes.append(f"{sample.num_unknown} classes that the store does not know are left out")
    notes += [
        f"labels of {each.name} are {each.store.codec.name}, which is not all that the teacher "
        "said; the paper compares full labels (fkd label --codec full)"
        for each in stores
        if not keeps_all(each.store.codec, each.store.num_classes)
    ]
    notes += [
        f"{source.name} is a target only: {source.undefined}"
        for source in sources
        if source.undefined is not None
    ]
    return notes
