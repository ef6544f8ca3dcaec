"""Find crops on which ReLabel and FKD labels differ, and gather what a figure of them shows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkd.analysis.label_criteria import Choice, LabelStatistics, choose_examples
from fkd.analysis.label_sources import (
    PooledMaps,
    StoredLabels,
    keeps_all,
    open_images,
    open_labels,
    open_maps,
    rows_in,
    usable_images,
)
from fkd.analysis.samples import CropSample, SampleConfig, draw_sample
from fkd.checks import require_whole
from fkd.crops.replay import replay
from fkd.data.identity import load_labeled
from fkd.data.sources import ImagesConfig, ImageSource, remarks_of
from fkd.errors import ConfigError
from fkd.labeling.store_checks import load_teachers_of
from fkd.labels.codec_names import check_codec
from fkd.labels.codecs import MarginalSmoothing, decode
from fkd.models.classes import display_names
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.teacher import TeacherConfig
from fkd.store import LabelStore
from fkd.store.canonical import printable
from fkd.userfiles import settle_paths

Progress = Callable[[int], None]  # so many more images are done
_IMAGES_AT_ONCE = 16
_KEPT = 5
_IN_JSON = 10  # classes of a label


@dataclass(frozen=True, kw_only=True)
class LabelExamplesConfig:
    """Crops of a store, and their labels.

    Attributes:
        images: the images that were labeled.
        store: folder of the label store; one of full labels shows most.
        maps: folder of a store of label maps of the same images.
        teacher: the teacher of the store, which labels the shown crops again, in full, where the
            store keeps less.
        kept: K of the third strip, ms:K; by default that of the store, or 5.
        num_examples: crops shown for each criterion.
        shown_classes: classes with a name and a bar in each strip.
        sample: the crops among which examples are looked for.
        device: where the teacher runs: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is
            one.
        out: folder of labels.svg, labels.png and labels.json.
    """

    images: ImagesConfig
    store: str
    maps: str
    teacher: TeacherConfig | None = None
    kept: int | None = None
    num_examples: int = 1
    shown_classes: int = 3
    sample: SampleConfig = field(
        default_factory=lambda: SampleConfig(num_classes=1000, crops_per_image=16)
    )
    device: str | None = None
    out: str = "analysis"

    def __post_init__(self) -> None:
        settle_paths(self, "store", "maps", "out")
        for name in ("kept", "num_examples", "shown_classes"):
            require_whole(1, name, getattr(self, name))


@dataclass(frozen=True)
class Strip:
    """A label of a crop.

    Attributes:
        title: whose.
        probabilities: float64 (C,).
    """

    title: str
    probabilities: np.ndarray


@dataclass(frozen=True)
class Example:
    """A crop and its labels.

    Attributes:
        choice: why it is shown.
        key: of its image.
        crop_number: in the store.
        box: top, left, height, width, pixels of the image.
        flip: whether the crop is flipped.
        image: uint8 (3, H, W).
        crop: uint8 (3, S, S), as the teacher saw it.
        truth: name of the true class; None where it is not known.
        strips: its labels.
    """

    choice: Choice
    key: bytes
    crop_number: int
    box: tuple[int, int, int, int]
    flip: bool
    image: Tensor
    crop: Tensor
    truth: str | None
    strips: list[Strip]

    def to_json(self, class_names: list[str]) -> dict[str, Any]:
        """Everything but the pixels."""
        return {
            "criterion": self.choice.criterion.number,
            "title": self.choice.criterion.title,
            "rule": self.choice.criterion.rule,
            "met": self.choice.met,
            "values": self.choice.values,
            "image": printable(self.key),
            "crop": self.crop_number,
            "box": list(self.box),
            "flip": self.flip,
            "truth": self.truth,
            "labels": {strip.title: _top(strip, class_names) for strip in self.strips},
        }


@dataclass(frozen=True)
class ExamplesSetup:
    """Everything that a run needs, opened and checked; attributes as in the settings."""

    config: LabelExamplesConfig
    images: ImageSource
    labels: StoredLabels
    maps: PooledMaps
    teachers: TeacherEnsemble | None
    sample: CropSample
    notes: list[str]

    @property
    def store(self) -> LabelStore:
        """The label store."""
        return self.labels.store

    @property
    def has_full(self) -> bool:
        """Whether full labels are known, or can be computed."""
        codec, num_classes = self.store.codec, self.store.num_classes
        return self.teachers is not None or keeps_all(codec, num_classes)


def open_examples(config: LabelExamplesConfig) -> ExamplesSetup:
    """Open and check everything.

    Raises:
        ConfigError: a setting cannot work.
        StoreError: a store cannot be used, or is not of these images, or of another teacher.
    """
    store = open_labels(config.store)
    images, rows = open_images(config.images, store)
    maps = open_maps(config.maps, store)
    teachers = None
    if config.teacher is not None:
        teachers = load_teachers_of(store, [config.teacher], config.device)
    if config.kept is not None:
        check_codec(MarginalSmoothing(config.kept), store.num_classes)
    sample = draw_sample(
        images, store, config.sample, usable_images(rows, store, [maps.store]), rows
    )
    labels = StoredLabels("FKD", store, np.arange(store.num_classes))
    notes = list(remarks_of(images))
    if sample.num_unknown:
        notes.append(f"{sample.num_unknown} classes that the store does not know are left out")
    if teachers is None and not keeps_all(store.codec, store.num_classes):
        if config.kept is not None:
            raise ConfigError(
                f"kept: {store.path} keeps {store.codec.name} labels, of which no others can be "
                "made; leave it out, or give the teacher of the store (--teacher.name)"
            )
        notes.append(
            f"the store keeps {store.codec.name} labels, which are shown; its teacher "
            "(--teacher.name) would give the full ones"
        )
    return ExamplesSetup(config, images, labels, maps, teachers, sample, notes)


def find_examples(
    setup: ExamplesSetup, progress: Progress | None = None
) -> tuple[list[Example], list[str]]:
    """The crops that are shown, by criterion, and notes on criteria that no crop meets.

    Raises:
        CropMismatch: an image was changed since it was labeled.
        ImageError: an image cannot be read.
        StoreError: a store is damaged.
    """
    statistics = _measure(setup, progress)
    per_image = setup.sample.crops.shape[1]
    positions = np.repeat(np.arange(len(setup.sample)), per_image)
    choices, notes = choose_examples(
        statistics, positions, setup.store.num_classes, setup.config.num_examples
    )
    numbers = setup.sample.crops.reshape(-1)
    return [
        _example(setup, choice, int(positions[choice.index]), int(numbers[choice.index]))
        for choice in choices
    ], notes


def _measure(setup: ExamplesSetup, progress: Progress | None) -> LabelStatistics:
    """Statistics of all crops of the sample, from stored labels; decodes no image."""
    sample, parts = setup.sample, []
    for first in range(0, len(sample), _IMAGES_AT_ONCE):
        chunk = slice(first, first + _IMAGES_AT_ONCE)
        rows, numbers = sample.rows[chunk], sample.crops[chunk]
        read = setup.store.read(rows, numbers)
        relabel = setup.maps.probabilities(
            rows_in(setup.maps.store, setup.store, rows), read.records.box
        )
        height, width = read.records.box[..., 2], read.records.box[..., 3]
        area = height * width / read.images.size.prod(1)[:, None]
        truth = np.full(len(rows), -1) if sample.truth is None else sample.truth[chunk]
        parts.append(
            LabelStatistics.of(
                relabel,
                setup.labels.probabilities(read),
                area.reshape(-1),
                np.repeat(truth, numbers.shape[1]),
            )
        )
        if progress is not None:
            progress(len(rows))
    return LabelStatistics.concatenate(parts)


def _example(setup: ExamplesSetup, choice: Choice, position: int, number: int) -> Example:
    """Everything about a chosen crop."""
    store, sample = setup.store, setup.sample
    row = sample.rows[position : position + 1]
    read = store.read(row, [[number]])
    records = read.records[0]
    image = load_labeled(store, setup.images, int(row[0]))
    relabel = setup.maps.probabilities(rows_in(setup.maps.store, store, row), read.records.box)
    top, left, height, width = records.box[0].tolist()
    truth = None if sample.truth is None else store.class_names[int(sample.truth[position])]
    side = max(1, min(224, max(height, width)))
    return Example(
        choice=choice,
        key=store.keys(row)[0],
        crop_number=number,
        box=(top, left, height, width),
        flip=bool(records.flip[0]),
        image=image,
        crop=replay(image, records, side, "bicubic")[0],
        truth=None if truth is None else display_names([truth])[0],
        strips=[
            Strip("ReLabel, at the same box", relabel[0]),
            *_strips(setup, image, records, setup.labels.probabilities(read)),
        ],
    )


def _strips(setup: ExamplesSetup, image: Tensor, records: Any, stored: np.ndarray) -> list[Strip]:
    """The label of FKD in full, and what ms:K leaves of it; or else as it is stored."""
    codec, num_classes = setup.store.codec, setup.store.num_classes
    full = torch.from_numpy(stored).float()
    if setup.teachers is not None:
        crops = [replay(image, records, v.size, v.interpolation) for v in setup.teachers.views]
        full = setup.teachers.probabilities(crops).cpu()
    if not setup.has_full:
        return [Strip(f"FKD, {codec.name} as stored", stored[0])]
    own = codec.k if isinstance(codec, MarginalSmoothing) else _KEPT
    kept = MarginalSmoothing(setup.config.kept or min(own, num_classes))
    smoothed = decode(kept, kept.encode(full), num_classes)
    return [
        Strip("FKD, full", full[0].double().numpy()),
        Strip(f"FKD, {kept.name}", smoothed[0].double().numpy()),
    ]


def _top(strip: Strip, class_names: list[str]) -> list[dict[str, Any]]:
    order = np.argsort(-strip.probabilities, kind="stable")[:_IN_JSON]
    shown = display_names([class_names[c] for c in order.tolist()])
    return [
        {"class": class_names[c], "display": name, "probability": float(strip.probabilities[c])}
        for c, name in zip(order.tolist(), shown, strict=True)
    ]
