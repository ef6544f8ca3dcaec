"""Teachers and stores side by side on the same crops, before days are spent on one of them.

The most accurate teacher is often not the best one: what a student learns from is how its labels
spread over the classes. So this gives figures and no verdict.

Source: FerKD (Shen, ICCV 2023), whose students of ten teachers are not ordered as these are.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fkd.analysis.crop_sample import CropSample, draw_sample, same_crops, stored_labels
from fkd.analysis.label_sources import refuse_multi_label
from fkd.analysis.label_statistics import accuracy_of, compare_all, label_statistics
from fkd.analysis.teacher_rows import Cost, TeacherRow, TeachersReport
from fkd.checks import require_whole
from fkd.crops.replay import replay
from fkd.crops.sampling import CropConfig
from fkd.data.ahead import look_ahead, single_threaded_pool
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImagesConfig, ImageSource, load, open_source, remarks_of
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import center_crop
from fkd.labels.codecs import Full, Logits
from fkd.models.classes import match_classes, match_known_classes
from fkd.models.devices import resolve_device
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LabelStore
from fkd.viewing.summary import store_bytes

_TIMED_PASSES, _WARM_PASSES = 7, 2
_TIMED_SECONDS = 10.0  # at most, of a large teacher on a CPU; two passes in any case
_SMALLEST = 1e-30  # below any probability that is stored

Begin = Callable[[str, int], Callable[[int], None]]
"""(what is done, how many images) to a function that is told of images that were done."""


@dataclass(frozen=True, kw_only=True)
class TeachersConfig:
    """What is compared, and on which crops.

    Attributes:
        images: the images; may be left out where only stores are compared.
        models: teachers by names of yours: a model name or a folder each, or settings of a teacher.
        stores: label stores by names of yours; their crops are looked at, in the first order.
        classes: that labels are compared over, matched by name: those that all of them know
            (common), or those of the images (dataset). Probabilities are given that it is one of
            these.
        num_images: images of the sample.
        num_crops: crops of each; at most as many as every store has.
        crops: how crops are drawn where there is no store.
        num_kept: K, of which the probability is summed up, as a codec ms:K keeps it.
        seed: chooses the images.
        batch_size: crops in a forward pass.
        num_workers: threads that decode and crop.
        device: cpu, cuda, cuda:1, mps, xpu; by default a GPU if there is one.
    """

    images: ImagesConfig | None = None
    models: dict[str, str | TeacherConfig] = field(default_factory=dict)
    stores: dict[str, str] = field(default_factory=dict)
    classes: Literal["common", "dataset"] = "common"
    num_images: int = 128
    num_crops: int = 8
    crops: CropConfig = field(default_factory=CropConfig)
    num_kept: int = 5
    seed: int = 0
    batch_size: int = 32
    num_workers: int = 2
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_images", "num_crops", "num_kept", "batch_size", "num_workers"):
            require_whole(1, name, getattr(self, name))
        require_whole(None, "seed", self.seed)
        both = sorted(set(self.models) & set(self.stores))
        if both:
            raise ConfigError(f"models.{both[0]}: a store has this name, too; give another one")
        if not self.models and not self.stores:
            raise ConfigError("nothing to compare: give models or stores")
        if self.images is None and self.models:
            raise ConfigError("images.root: models need images to look at; --images.root FOLDER")
        if self.images is None and self.classes == "dataset":
            raise ConfigError("classes: dataset means those of the images; --images.root FOLDER")


def compare_teachers(
    config: TeachersConfig, begin: Begin = lambda what, total: lambda count: None
) -> TeachersReport:
    """Run all models on the sample, read the labels of all stores, and compare.

    All networks are in memory; one at a time is on the device.

    Raises:
        ConfigError: a model or a store does not fit, or they have no classes in common.
        TeacherError: a teacher cannot be loaded, or its output is not finite.
    """
    device = resolve_device(config.device)
    stores = {name: _open_store(name, path) for name, path in config.stores.items()}
    source = None if config.images is None else open_source(config.images)
    models = {name: _load(name, model) for name, model in config.models.items()}
    class_names = _find_classes(config, source, models, stores)
    sample = draw_sample(
        source,
        list(stores.values()),
        num_images=config.num_images,
        num_crops=config.num_crops,
        crops=config.crops,
        seed=config.seed,
    )
    truth = sample.truth(class_names)
    rows, labels = [], []
    for name, model in models.items():
        teacher = model.with_classes(class_names)
        found = _run_model(name, teacher, sample, truth, config, device, begin)
        rows.append(found[0])
        labels.append(found[1])
    for name, store in stores.items():
        found = _read_store(name, store, sample, truth, class_names, config.num_kept)
        rows.append(found[0])
        labels.append(found[1])
    alike = np.array([row.same_crops for row in rows])
    comparable = (alike[:, None] & alike[None]) | np.eye(len(rows), dtype=bool)
    return TeachersReport(
        rows,
        compare_all(labels, comparable),
        len(sample.keys),
        len(sample.numbers),
        class_names,
        device.type,
        _remarks(config, sample, truth, rows, stores),
    )


def measure_cost(teacher: Teacher, batch_size: int, device: torch.device) -> Cost:
    """Time forward passes of noise, one after the other, and count operations of one crop."""
    size = teacher.preprocessing.input_size
    noise = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8)
    crops = noise.contiguous(memory_format=torch.channels_last).to(device)
    seconds: list[float] = []
    stop = time.monotonic() + _TIMED_SECONDS
    while len(seconds) < _WARM_PASSES + _TIMED_PASSES:
        started = time.perf_counter()
        teacher.logits(crops).cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
        if len(seconds) > 1 and time.monotonic() > stop:
            break
    timed = seconds[_WARM_PASSES:] or seconds[1:]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        teacher.model(teacher.preprocessing.normalize(crops[:1]))
    return Cost(
        1000 * median(timed) / batch_size,
        counter.get_total_flops() // 2,
        sum(parameter.numel() for parameter in teacher.model.parameters()),
        size,
    )


def _load(name: str, model: str | TeacherConfig) -> Teacher:
    """A teacher on the CPU.

    Raises:
        ConfigError: it gives no classes, or is not there.
    """
    if isinstance(model, str) and model.strip().startswith("{"):
        raise ConfigError(
            f"models.{name}: {model} are no settings of a teacher; give a model name, a folder, or "
            'for example "{name: resnet50, temperature: 2}"'
        )
    config = TeacherConfig(os.path.expanduser(model)) if isinstance(model, str) else model
    try:
        (teacher,) = load_teachers([config]).teachers
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}") from error
    if not teacher.is_classifier:
        raise ConfigError(
            f"models.{name}: {teacher.name} gives {teacher.output} and no classes, whose labels "
            "have no entropy; compare classifiers"
        )
    return teacher


def _open_store(name: str, path: str) -> LabelStore:
    store = LabelStore.open(os.path.expanduser(path))
    if store.grid is not None or not store.is_of_classes:
        held = "embeddings" if store.grid is None else "label maps"
        raise ConfigError(
            f"stores.{name}: {store.path} holds {held}; give a store of crops with class labels"
        )
    refuse_multi_label(store, f"stores.{name}")
    return store


def _find_classes(
    config: TeachersConfig,
    source: ImageSource | None,
    models: dict[str, Teacher],
    stores: dict[str, LabelStore],
) -> list[str]:
    """The classes to compare over, which all models and stores know."""
    heads = {f"models.{name}": model.class_names for name, model in models.items()}
    heads |= {f"stores.{name}": list(store.class_names) for name, store in stores.items()}
    if config.classes == "dataset":
        first = next(iter(heads.values()))
        names = None if source is None else class_names_among(source, first)
        if names is None:
            raise ConfigError("classes: the images have none; use --classes common")
        for name, head in heads.items():
            try:
                match_classes(names, head)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
        return names
    common = next(iter(heads.values()))
    for head in heads.values():
        common = [
            n for n, i in zip(common, match_known_classes(common, head), strict=True) if i >= 0
        ]
    if len(common) < 2:
        raise ConfigError(
            f"{' and '.join(heads)} have {len(common)} classes in common; compare teachers of the "
            "same classes, or name their outputs alike (class_names of a teacher)"
        )
    return common


def _run_model(
    name: str,
    teacher: Teacher,
    sample: CropSample,
    truth: Tensor,
    config: TeachersConfig,
    device: torch.device,
    begin: Begin,
) -> tuple[TeacherRow, Tensor]:
    """A row, and the probabilities (n * m, C) of the crops."""
    teacher.to(device)
    advance = begin(name, len(sample.keys))
    crops, centers = [], []
    m = len(sample.numbers)
    for batch in _inputs(teacher, sample, config):
        outputs = teacher.probabilities(batch).cpu().reshape(-1, m + 1, len(teacher.class_names))
        crops.append(outputs[:, :m].flatten(0, 1))
        centers.append(outputs[:, m])
        advance(len(outputs))
    cost = measure_cost(teacher, config.batch_size, device)
    teacher.to(torch.device("cpu"))
    labels = torch.cat(crops)
    row = TeacherRow(
        name,
        "model",
        teacher.name,
        label_statistics(labels, truth.repeat_interleave(m), config.num_kept),
        image_accuracy=accuracy_of(torch.cat(centers), truth),
        cost=cost,
    )
    return row, labels


def _inputs(teacher: Teacher, sample: CropSample, config: TeachersConfig) -> Iterator[Tensor]:
    """Batches of whole images: the m crops of each, then its center; uint8 (k (m + 1), 3, S, S)."""
    images = max(1, config.batch_size // (len(sample.numbers) + 1))
    chunks = (
        range(first, min(first + images, len(sample.keys)))
        for first in range(0, len(sample.keys), images)
    )
    with single_threaded_pool(config.num_workers) as pool:
        build = partial(_build, teacher, sample)
        yield from look_ahead(pool, build, chunks, 2 * config.num_workers)


def _build(teacher: Teacher, sample: CropSample, chunk: range) -> Tensor:
    assert sample.source is not None  # TeachersConfig sees to it
    size, interpolation, _ = teacher.view
    parts = []
    for j in chunk:
        image = load(sample.source, sample.positions[j]).image
        parts.append(replay(image, sample.records[j], size, interpolation))
        parts.append(center_crop(image, teacher.preprocessing)[None])
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _read_store(
    name: str,
    store: LabelStore,
    sample: CropSample,
    truth: Tensor,
    class_names: list[str],
    num_kept: int,
) -> tuple[TeacherRow, Tensor]:
    """A row, and the probabilities (n * m, C) of its crops."""
    labels = over_classes(
        stored_labels(store, sample), match_classes(class_names, store.class_names)
    )
    teachers = [teacher.name for teacher in store.provenance.teachers if teacher.name]
    row = TeacherRow(
        name,
        "store",
        f"{store.codec.name} of {' + '.join(teachers) or 'unknown teacher'}",
        label_statistics(labels, truth.repeat_interleave(len(sample.numbers)), num_kept),
        bytes_per_crop=store_bytes(store.path) / (store.num_images * store.num_crops),
        same_crops=same_crops(store, sample),
    )
    return row, labels


def over_classes(probabilities: Tensor, columns: list[int]) -> Tensor:
    """Probabilities (N, C) of some of the classes, given that it is one of these; even for none."""
    logs = probabilities[:, columns].double().clamp(min=_SMALLEST).log()
    return torch.softmax(logs, dim=1).float()


def _remarks(
    config: TeachersConfig,
    sample: CropSample,
    truth: Tensor,
    rows: list[TeacherRow],
    stores: dict[str, LabelStore],
) -> list[str]:
    remarks = [] if sample.source is None else remarks_of(sample.source)
    if len(sample.keys) < config.num_images:
        remarks.append(f"there are only {len(sample.keys):,} images to look at")
    if len(sample.numbers) < config.num_crops:
        remarks.append(f"a store has only {len(sample.numbers)} crops of an image")
    if sample.unreadable:
        remarks.append(
            f"{len(sample.unreadable)} images cannot be read, such as {sample.unreadable[0]}"
        )
    unknown = int((truth < 0).sum())
    if unknown:
        remarks.append(
            f"the true class of {unknown:,} of {len(truth):,} images is not known, or none of the "
            "compared classes; they do not count for accuracy and calibration"
        )
    for row in rows:
        if not row.same_crops:
            remarks.append(
                f"{row.name} has other crops of the same images (another crops.seed, or drawn "
                "otherwise): its own numbers can be compared, its agreement with others cannot"
            )
    lossy = [n for n, store in stores.items() if not isinstance(store.codec, Full | Logits)]
    if lossy:
        remarks.append(
            f"labels of {', '.join(lossy)} are compressed; entropy and KL are those of what a "
            "student gets, and not of the teacher"
        )
    return remarks
