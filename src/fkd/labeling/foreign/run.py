"""`import_labels`: labels that others have made, as a label store of ours.

Files are read without running anything of them (`fkd.labeling.foreign.pickles`). They say neither
their teacher nor their classes: the user states these, and `fkd verify --teacher.name` proves them.
A wrong order of classes shows in the share of images whose labels agree with their folder.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch

from fkd.checks import refuse_unused, require_whole
from fkd.crops.records import CropRecords
from fkd.data.ahead import look_ahead
from fkd.data.canary import make_canaries
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImagesConfig, ImageSource, load, open_source, refuse_same_folder
from fkd.errors import ConfigError, CropMismatch, FormatError
from fkd.labeling.axes import AxesReport, compare_axes
from fkd.labeling.config import MapDtype, require_one_of
from fkd.labeling.foreign import maps, official, reinforced
from fkd.labeling.foreign.crops import ForeignCrops
from fkd.labeling.foreign.files import find_by_position, find_by_stem, read_label_file
from fkd.labeling.identity import crops_identity, describe_environment, map_identity
from fkd.labeling.image_checks import find_changed_shards
from fkd.labeling.labels import facts_of
from fkd.labeling.pipeline import ImageRow
from fkd.labeling.ranks import World
from fkd.labels.codecs import Codec, TopKLogits
from fkd.labels.encoded import Encoded
from fkd.labels.sampled import Sampled
from fkd.models.classes import imagenet_classes, match_classes, read_class_names
from fkd.models.devices import resolve_device
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LabeledCrops, LabelStore, StoreWriter
from fkd.store.config import StoreConfig
from fkd.store.geometry import grid_boxes
from fkd.userfiles import settle_paths

Format = Literal["fkd", "ml-dr", "relabel"]
ValueDtype = Literal["u16", "f16", "f32"]


@dataclass(frozen=True, kw_only=True)
class StatedTeacher:
    """What is known of the teacher of labels that others have made.

    Attributes:
        name: of its network.
        input_size: side of its crops, pixels; with it, pixels of some crops are kept for checks.
        interpolation: how its crops were resized: bilinear or bicubic.
        temperature: of its softmax.
        license: of its weights.
    """

    name: str = "unknown"
    input_size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    temperature: float = 1.0
    license: str | None = None

    def __post_init__(self) -> None:
        if self.input_size is not None:
            require_whole(1, "teacher.input_size", self.input_size)
        if not self.temperature > 0:
            raise ConfigError(f"teacher.temperature must be above 0, got {self.temperature}")

    def members(self) -> dict[str, Any]:
        """Its object in the config of a store."""
        seen = {"input_size": self.input_size, "interpolation": self.interpolation}
        return (
            {"name": self.name, "temperature": float(self.temperature)}
            | (seen if self.input_size is not None else {})
            | ({} if self.license is None else {"license": self.license})
        )


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Import labels that others have made.

    Attributes:
        images: the images that were labeled.
        labels: folder of the label files.
        format: fkd, the official code's; ml-dr, sets of random crops; relabel, label maps.
        out: folder of the store; an unfinished store is continued.
        classes: names of the class ids: imagenet, or a file (JSON list, or one name per line).
        teacher: what is known of the teacher; the files do not say.
        codec: of the labels of crops, where their shape leaves it open: ms:K (default) or mr:K.
        value_dtype: how a value is stored; by default f32, or f16 where the files have half floats
            and for label maps.
        swap_xy: of label maps, take the cells in the files for (column, row) in the place of (row,
            column).
        axes_teacher: a network that knows the classes of label maps, theirs or any other; tells
            before the import whether the cells are (row, column) or (column, row).
        images_per_shard: images per shard.
        num_workers: threads that read files and decode images.
    """

    images: ImagesConfig
    labels: str
    format: Format
    out: str
    classes: str = "imagenet"
    teacher: StatedTeacher = field(default_factory=StatedTeacher)
    codec: Codec | None = None
    value_dtype: ValueDtype | None = None
    swap_xy: bool = False
    axes_teacher: TeacherConfig | None = None
    images_per_shard: int | None = None
    num_workers: int = 2

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the store, e.g. --out labels/imported")
        for name in ("images_per_shard", "num_workers"):
            require_whole(1, name, getattr(self, name))
        settle_paths(self, "labels", "out", "classes")
        refuse_same_folder(self.out, self.images)
        require_one_of(Format, "format", self.format)
        if self.value_dtype is not None:
            require_one_of(ValueDtype, "value_dtype", self.value_dtype)
        if self.format == "relabel" and self.value_dtype not in (None, *get_args(MapDtype)):
            raise ConfigError("value_dtype: label maps hold logits; use f16 or f32")
        if self.format == "relabel" and self.codec is not None:
            raise ConfigError("codec: label maps have one codec; leave it out")
        if isinstance(self.codec, Sampled):
            raise ConfigError(
                f"codec: labels of others are no {self.codec.name}, whose classes fkd draws; use "
                "ms:K or mr:K"
            )
        if self.format != "relabel":
            refuse_unused(
                self, {"swap_xy", "axes_teacher"}, prefix="", user=f"format {self.format}"
            )


@dataclass(frozen=True)
class ImportResult:
    """A finished import.

    Attributes:
        store: the labels.
        num_known: images read now whose folder names a class of the labels.
        num_right: those of them whose labels, taken together, have that class as the largest one.
        num_inexact: images read now whose crop boxes may be a pixel off: half floats are too coarse
            for a side above 2,048 pixels.
    """

    store: LabelStore
    num_known: int
    num_right: int
    num_inexact: int


@dataclass(frozen=True)
class _Image:
    """What is imported of an image; `row` has its records."""

    row: ImageRow
    label: Encoded
    is_inexact: bool


def import_labels(
    config: ImportConfig, progress: Callable[[int], None] = lambda num_images: None
) -> ImportResult:
    """Write a store of labels that others have made, or resume.

    Args:
        config: what to import.
        progress: called with the number of images that were just read.

    Raises:
        ConfigError: two images share a file, the classes are unknown, or the codec is another.
        MissingLabel: images have no labels; names the first.
        FormatError: a file holds no such labels, or labels of another image.
        ImageError: an image cannot be read.
        CropMismatch: images were changed since an earlier start has imported their labels.
        StoreError: the store cannot be written, or belongs to other labels.
    """
    files = _ForeignFiles(config, open_source(config.images))
    _require_same_images(files)
    names = class_names_among(files.source, files.class_names) or []
    ids = _known_ids(names, files.class_names)
    num_known = num_right = num_inexact = 0
    with (
        StoreWriter.open(config.out, files.identity) as writer,
        ThreadPoolExecutor(config.num_workers) as pool,
    ):
        for number in writer.pending():
            rows = range(*writer.shard_range(number))
            images: list[_Image] = []
            for image in look_ahead(pool, files.read, rows, 2 * config.num_workers):
                truth = ids.get(files.source.label(rows[len(images)]))
                num_known += truth is not None
                num_right += truth == _top_class(image.label, len(files.class_names))
                num_inexact += image.is_inexact
                images.append(image)
                progress(1)
            writer.commit(number, [image.row.key for image in images], _content(images))
        writer.finish(describe_environment(torch.device("cpu")), list(files.canaries()))
    return ImportResult(LabelStore.open(config.out), num_known, num_right, num_inexact)


def check_axes(config: ImportConfig) -> AxesReport | None:
    """How label maps compare with the labels of `axes_teacher`, as they would be imported.

    Returns:
        None where no such teacher is named.

    Raises:
        ConfigError: the teacher cannot be loaded or does not know a class.
        FKDError: as `import_labels`.
    """
    if config.axes_teacher is None:
        return None
    files = _ForeignFiles(config, open_source(config.images))
    teachers = load_teachers(
        [config.axes_teacher], class_names=files.class_names, device=resolve_device(None)
    )
    first = files.first
    assert isinstance(first, maps.ForeignMap)  # ImportConfig sees to it
    return compare_axes(files.source, lambda i: files.labels(i).label, first.grid, teachers)


def require_axes(report: AxesReport | None, config: ImportConfig) -> None:
    """Refuse to import label maps under the wrong reading.

    Raises:
        ConfigError: a teacher has told that it is the other one.
    """
    if report is not None and report.is_right is False:
        way_out = "leave out --swap_xy" if config.swap_xy else "add --swap_xy"
        raise ConfigError(
            f"swap_xy: {report.describe(swap_xy=config.swap_xy)[1]}; {way_out} to import them "
            "like that, or leave out --axes_teacher"
        )


@dataclass(frozen=True)
class _ForeignFiles:
    """The label files of a source."""

    config: ImportConfig
    source: ImageSource

    @cached_property
    def class_names(self) -> list[str]:
        """Of the class ids in the files."""
        if self.config.classes == "imagenet":
            return list(imagenet_classes(1000) or [])
        return read_class_names(self.config.classes)

    @cached_property
    def paths(self) -> list[str]:
        """One for each image."""
        root = self.config.labels
        if self.config.format == "ml-dr":
            return find_by_position(self.source, root, reinforced.SUFFIX)
        if self.config.format == "relabel":
            return find_by_stem(self.source, root, maps.SUFFIX)
        return find_by_stem(self.source, root, official.SUFFIX, official.LEVELS)

    @cached_property
    def first(self) -> ForeignCrops | maps.ForeignMap:
        """The labels of the first image, which all others are like."""
        return self.labels(0)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The config of the store."""
        config, first = self.config, self.first
        imported: dict[str, Any] = {"origin": "imported", "teachers": [config.teacher.members()]}
        if config.swap_xy:
            imported["swap_xy"] = True
        if isinstance(first, maps.ForeignMap):
            codec, dtype = TopKLogits(first.num_kept), config.value_dtype or "f16"
            size = config.images_per_shard
            return imported | map_identity(
                self.source, self.class_names, first.grid, codec, dtype, size
            )
        has_values = first.codec.num_values(len(self.class_names)) > 0
        if config.value_dtype is not None and not has_values:
            raise ConfigError(
                f"value_dtype: labels of codec {first.codec.name} have no values; leave it out"
            )
        of_file: ValueDtype = "f16" if first.is_half else "f32"
        return imported | crops_identity(
            self.source,
            self.class_names,
            first.codec,
            (config.value_dtype or of_file) if has_values else None,
            len(first),
            config.images_per_shard,
        )

    def read(self, i: int) -> _Image:
        """What is imported of an image."""
        labels, first = self.labels(i), self.first
        if _kind(labels) != _kind(first):
            raise FormatError(
                f"{self.paths[i]} has another number of crops, classes or cells than "
                f"{self.paths[0]}; import labels of one kind"
            )
        loaded = load(self.source, i)
        size, inexact = loaded.size, False
        if isinstance(labels, maps.ForeignMap):
            (boxes,) = grid_boxes(labels.grid, np.array([size]))
            flip = np.zeros(len(boxes), bool)
        else:
            boxes, flip = labels.boxes(size), labels.flip
            inexact = official.may_be_off(labels, size)
        key, name = self.source.key(i), self.source.name(i)
        records = CropRecords(boxes, flip)
        row = ImageRow(key, name, loaded.crc32, loaded.num_bytes, size, records)
        return _Image(row, labels.label, inexact)

    def canaries(self) -> Iterator[dict[str, Any]]:
        """Pixels of some crops, where it is known what the teacher saw."""
        if self.config.teacher.input_size is not None:
            store = LabelStore.open(self.config.out, partial=True)
            yield from (canary.in_manifest() for canary in make_canaries(store, self.source))

    def labels(self, i: int) -> ForeignCrops | maps.ForeignMap:
        """The labels of an image, checked."""
        path, config, num_classes = self.paths[i], self.config, len(self.class_names)
        data = read_label_file(path)
        if config.format == "relabel":
            dtype: MapDtype = "f32" if config.value_dtype == "f32" else "f16"
            return maps.read_map(data, path, num_classes, dtype, swap_xy=config.swap_xy)
        if config.format == "ml-dr":
            return reinforced.read_reinforced(data, path, num_classes, config.codec)
        return official.read_official(data, path, num_classes, config.codec)


def _kind(labels: ForeignCrops | maps.ForeignMap) -> tuple[Any, ...]:
    """What all files of a set have in common."""
    if isinstance(labels, maps.ForeignMap):
        return labels.grid, labels.num_kept
    return len(labels), labels.codec


def _require_same_images(files: _ForeignFiles) -> None:
    """Compare what earlier starts have imported with the images of now."""
    config = files.config
    parsed = StoreConfig.parse(files.identity, "the config")
    shards, description = find_changed_shards(
        config.out, parsed, files.source, World(), config.num_workers
    )
    if shards:
        raise CropMismatch(
            f"images were changed since {config.out} has labels of them: {description}. Restore "
            "the files, or import into another folder"
        )


def _known_ids(wanted: list[str], class_names: list[str]) -> dict[int, int]:
    """The class id of each class of the images that has one."""
    ids: dict[int, int] = {}
    for label, name in enumerate(wanted):
        try:
            ids[label] = match_classes([name], class_names)[0]
        except ConfigError:
            continue  # only counted: images need no classes
    return ids


def _top_class(label: Encoded, num_classes: int) -> int:
    """The class whose values are largest in sum over all crops, or cells."""
    if label.ids is None:
        assert label.values is not None
        return int(label.values.sum(0).argmax())
    weights = None if label.values is None else label.values.reshape(-1)
    return int(np.bincount(label.ids.reshape(-1), weights, num_classes).argmax())


def _content(images: list[_Image]) -> LabeledCrops:
    records = [image.row.records for image in images]
    return LabeledCrops(
        images=facts_of([image.row for image in images]),
        records=CropRecords.stack([each for each in records if each is not None]),
        label=Encoded.concatenate([image.label[None] for image in images]),
    )
