"""Released label maps of ReLabel, one torch file per image, as a store of label maps.

    ROOT/n01440764/n01440764_10026.pt     a tensor (2, K, gh, gw): logits; class ids, as floats

Such files are pickles. They are read by torch's weights-only unpickler, which builds tensors and
plain containers from an allow-list and refuses every other name a pickle may call: no code of the
file runs. A file may still make it allocate memory, so the sizes of files and of what is packed in
them are bounded first, the opcodes of the pickle are followed without values (`check_torch_file`,
which also compares the checksums of an archive), and the shape of a tensor is checked before its
numbers.

Maps are joined to images by folder and stem, the only link there is. What the store then says of
the images (checksums, sizes) describes the files as they are now; whether these are the images that
were labeled cannot be checked. The share of images whose map agrees with their folder shows a
wrong order of classes.

Source: Re-labeling ImageNet (Yun et al., CVPR 2021) and its released maps; the layout is described
in the authors' repository, naver-ai/relabel_imagenet (issue 8).
"""

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fkd.checks import require_whole
from fkd.crops.records import CropRecords
from fkd.data.ahead import look_ahead
from fkd.data.folder import read_regular_file
from fkd.data.numbered import class_names_among
from fkd.data.sources import ImagesConfig, ImageSource, load, open_source, refuse_same_folder
from fkd.errors import (
    ConfigError,
    CropMismatch,
    FormatError,
    ImageError,
    MissingLabel,
    reason_of,
)
from fkd.labeling.config import MapDtype, require_one_of
from fkd.labeling.identity import describe_environment, map_identity
from fkd.labeling.image_checks import find_changed_shards
from fkd.labeling.labels import facts_of
from fkd.labeling.pipeline import ImageRow
from fkd.labeling.ranks import World
from fkd.labels.codecs import TopKLogits
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import LARGEST_VALUE
from fkd.models.classes import imagenet_classes, match_classes, read_class_names
from fkd.models.weight_files import check_torch_file
from fkd.store import LabeledCrops, LabelStore, StoreWriter
from fkd.store.canonical import printable
from fkd.store.config import StoreConfig
from fkd.store.geometry import grid_boxes
from fkd.userfiles import settle_paths

_MAX_BYTES = 1 << 22  # of a file, and of what is packed in it; 15 x 15 cells of 5 take 9,000
_MAX_SIDE, _MAX_KEPT = 256, 256
_SHOWN = 3
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, kw_only=True)
class ImportMapsConfig:
    """Import label maps: released ReLabel maps become a store of label maps.

    Attributes:
        images: the images that were labeled.
        maps: folder of the maps, FOLDER/STEM.pt for an image FOLDER/STEM.EXTENSION.
        classes: names of the class ids: imagenet, or a file (JSON list, or one name per line).
        out: folder of the store; an unfinished store is continued.
        value_dtype: how a logit is stored; f32 as in the files, f16 in half the bytes.
        images_per_shard: images per shard; by default at least 1,024.
        num_workers: threads that read maps and decode images.
    """

    images: ImagesConfig
    maps: str
    out: str
    classes: str = "imagenet"
    value_dtype: MapDtype = "f16"
    images_per_shard: int | None = None
    num_workers: int = 2

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the label maps, e.g. --out maps/relabel")
        for name in ("images_per_shard", "num_workers"):
            require_whole(1, name, getattr(self, name))
        settle_paths(self, "maps", "out", "classes")
        refuse_same_folder(self.out, self.images)
        require_one_of(MapDtype, "value_dtype", self.value_dtype)


@dataclass(frozen=True)
class ImportResult:
    """A finished import.

    Attributes:
        store: the label maps.
        num_known: images read now whose folder names a class of the maps.
        num_right: those of them whose map, as a whole, has that class as the most probable one.
    """

    store: LabelStore
    num_known: int
    num_right: int


@dataclass(frozen=True)
class ForeignMap:
    """A map as it was released: labels of its cells (gh * gw, K), largest logits first."""

    label: Encoded
    grid: tuple[int, int]

    @property
    def num_kept(self) -> int:
        """K: classes kept of each cell."""
        assert self.label.ids is not None
        return int(self.label.ids.shape[1])

    def top_class(self, num_classes: int) -> int:
        """The class whose logits are largest in sum over all cells."""
        ids, logits = self.label.ids, self.label.values
        assert ids is not None
        assert logits is not None
        return int(np.bincount(ids.reshape(-1), logits.reshape(-1), num_classes).argmax())


def import_maps(
    config: ImportMapsConfig, progress: Callable[[int], None] = lambda num_images: None
) -> ImportResult:
    """Write a store of released maps, or resume.

    Args:
        config: what to import.
        progress: called with the number of images that were just read.

    Raises:
        ConfigError: two images share a map, or the classes are unknown.
        MissingLabel: images have no map; names the first.
        FormatError: a file is no label map.
        ImageError: an image cannot be read.
        CropMismatch: images were changed since an earlier start has imported their maps.
        StoreError: the store cannot be written, or belongs to other maps.
    """
    source = open_source(config.images)
    names = _class_names(config.classes)
    paths = _find_maps(source, config.maps)
    first = read_map(paths[0], len(names), config.value_dtype)
    codec = TopKLogits(first.num_kept)
    identity = map_identity(
        source, names, first.grid, codec, config.value_dtype, config.images_per_shard
    ) | {"origin": "imported", "teachers": [{"name": "released label maps"}]}

    _require_same_images(config, identity, source)

    def read(i: int) -> tuple[ImageRow, ForeignMap]:
        label_map = read_map(paths[i], len(names), config.value_dtype)
        if (label_map.grid, label_map.num_kept) != (first.grid, first.num_kept):
            raise FormatError(
                f"{paths[i]} has another grid or number of classes than {paths[0]}; "
                "import maps of one kind"
            )
        loaded = load(source, i)
        size = (loaded.image.shape[1], loaded.image.shape[2])
        facts = (source.key(i), source.name(i), loaded.crc32, loaded.num_bytes, size)
        return ImageRow(*facts), label_map

    class_ids = _known_ids(class_names_among(source, names) or [], names)
    are_right: list[bool] = []
    with (
        StoreWriter.open(config.out, identity) as writer,
        ThreadPoolExecutor(config.num_workers) as pool,
    ):
        for number in writer.pending():
            rows = range(*writer.shard_range(number))
            pairs: list[tuple[ImageRow, ForeignMap]] = []
            for pair in look_ahead(pool, read, rows, 2 * config.num_workers):
                truth = class_ids.get(source.label(rows[len(pairs)]))
                if truth is not None:
                    are_right.append(pair[1].top_class(len(names)) == truth)
                pairs.append(pair)
                progress(1)
            writer.commit(number, [row.key for row, _ in pairs], _content(pairs))
        writer.finish(describe_environment(torch.device("cpu")))
    return ImportResult(LabelStore.open(config.out), len(are_right), sum(are_right))


def _require_same_images(
    config: ImportMapsConfig, identity: dict[str, Any], source: ImageSource
) -> None:
    """Compare what earlier starts have imported with the images of now."""
    parsed = StoreConfig.parse(identity, "the config")
    shards, description = find_changed_shards(
        config.out, parsed, source, World(), config.num_workers
    )
    if shards:
        raise CropMismatch(
            f"images were changed since {config.out} has maps of them: {description}. Restore the "
            "files, or import into another folder"
        )


def read_map(path: str, num_classes: int, value_dtype: MapDtype = "f32") -> ForeignMap:
    """One released map, checked; runs no code of the file (see above).

    Raises:
        FormatError: the file is no tensor (2, K, gh, gw), a class id is no whole number in
            [0, num_classes) or comes twice in a cell, or a logit is not finite or too large.
    """
    tensor = _load_tensor(path)
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[0] != 2 or not 0 < shape[1] <= _MAX_KEPT:
        raise _no_map(path, f"its tensor has the shape {shape}, not (2, K, rows, columns)")
    if not all(0 < side <= _MAX_SIDE for side in shape[2:]):
        raise _no_map(path, f"it has {shape[2]} x {shape[3]} cells")
    kept, rows, columns = shape[1:]
    numbers = tensor.detach().to(torch.float32).reshape(2, kept, rows * columns).numpy()
    value, ids = numbers.transpose(0, 2, 1)
    if not (np.abs(value) <= LARGEST_VALUE[value_dtype]).all():  # False for NaN
        raise _no_map(path, f"a logit is not finite, or too large for {value_dtype}")
    if not ((ids >= 0) & (ids < num_classes) & (ids == np.floor(ids))).all():
        raise _no_map(path, f"a class id is no whole number from 0 to {num_classes - 1}")
    index = ids.astype(np.int64)
    order = np.lexsort((index, -value))
    index = np.take_along_axis(index, order, axis=1)
    if (np.diff(np.sort(index, axis=1), axis=1) == 0).any():
        raise _no_map(path, "a cell names a class twice")
    label = Encoded(index, np.take_along_axis(value, order, axis=1))
    return ForeignMap(label, (rows, columns))


def _load_tensor(path: str) -> torch.Tensor:
    """The plain tensor that is all a file holds."""
    try:
        data = read_regular_file(os.fsencode(path), path)
    except ImageError as error:  # the same reading, of another kind of file
        raise FormatError(f"{error}") from error
    if len(data) > _MAX_BYTES:
        raise _no_map(path, f"it has {len(data):,} bytes")
    try:
        if data.startswith(_ZIP):
            _refuse_large_contents(data)
        check_torch_file(io.BytesIO(data), len(data))
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file may make torch's reader stumble over anything
        reason = reason_of(error, 160)
        raise _no_map(path, f"torch cannot read it as weights only ({reason})") from error
    plain = type(content) is torch.Tensor and content.layout == torch.strided
    if not plain or not content.dtype.is_floating_point or content.device.type != "cpu":
        raise _no_map(path, "it holds something else than a tensor of floats")
    assert isinstance(content, torch.Tensor)
    return content


def _refuse_large_contents(data: bytes) -> None:
    """A zip file of few bytes may hold many."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f"{size:,} bytes are packed in it")


def _no_map(path: str, reason: str) -> FormatError:
    return FormatError(f"{path} is no label map: {reason}; remove it, or get it again")


def _find_maps(source: ImageSource, root: str) -> list[str]:
    """The file of each image's map.

    Raises:
        ConfigError: two images of a folder have the same stem.
        MissingLabel: a file is not there.
    """
    if not os.path.isdir(root):
        raise ConfigError(f"maps: {root} is no folder; give the folder of the released maps")
    owner: dict[bytes, int] = {}
    for i in range(len(source)):
        stem = os.path.splitext(source.key(i))[0]
        if stem in owner:
            raise ConfigError(
                f"maps: {source.name(owner[stem])} and {source.name(i)} would share the map "
                f"{printable(stem)}.pt; remove one of the images"
            )
        owner[stem] = i
    paths = [os.path.join(root, os.fsdecode(stem) + ".pt") for stem in owner]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise MissingLabel(
            f"{len(missing)} of {len(paths)} images have no map, the first: "
            f"{', '.join(missing[:_SHOWN])}; get these, or import fewer images"
        )
    return paths


def _class_names(classes: str) -> list[str]:
    if classes == "imagenet":
        return list(imagenet_classes(1000) or [])
    return read_class_names(classes)


def _known_ids(wanted: Sequence[str], class_names: Sequence[str]) -> dict[int, int]:
    """The class id of each class of the images that has one."""
    ids: dict[int, int] = {}
    for label, name in enumerate(wanted):
        try:
            ids[label] = match_classes([name], class_names)[0]
        except ConfigError:
            continue  # only counted: images need no classes
    return ids


def _content(pairs: Sequence[tuple[ImageRow, ForeignMap]]) -> LabeledCrops:
    images = facts_of([image for image, _ in pairs])
    boxes = grid_boxes(pairs[0][1].grid, images.size)
    return LabeledCrops(
        images=images,
        records=CropRecords(boxes, np.zeros(boxes.shape[:2], bool)),
        label=Encoded.concatenate([label_map.label[None] for _, label_map in pairs]),
    )
