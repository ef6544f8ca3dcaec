"""What a shard holds: image files, crops of them, and their labels; written, read and converted.

One type for all of it, `LabeledCrops`; how it becomes bytes is in `fkd.store.shard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fkd.crops.records import CropRecords
from fkd.labels.codec_names import PerTeacher
from fkd.labels.codecs import Codec, decode
from fkd.labels.encoded import Encoded
from fkd.store.canonical import MAX_KEY_BYTES
from fkd.store.config import StoreConfig
from fkd.store.geometry import draw_geometry, grid_boxes

if TYPE_CHECKING:
    from torch import Tensor

LABELED, UNREADABLE = 0, 1
_EXTRA = "crop.extra."
_ABOVE_ONE = 1e-3  # by which rounding may lift a probability above 1


@dataclass(frozen=True)
class ImageFacts:
    """What a store knows of n image files.

    Attributes:
        crc32: uint32 (n,), zlib's CRC-32 of the file.
        num_bytes: (n,), length of the file; int64 where it was read.
        size: (n, 2), height and width after decoding; int64 where they were read.
        status: uint8 (n,), `LABELED` or `UNREADABLE` (all else is 0 then).
    """

    crc32: np.ndarray
    num_bytes: np.ndarray
    size: np.ndarray
    status: np.ndarray

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by the names of their columns in a shard."""
        return {
            "image.crc32": self.crc32,
            "image.bytes": self.num_bytes,
            "image.size": self.size,
            "image.status": self.status,
        }

    @staticmethod
    def from_columns(columns: Mapping[str, np.ndarray]) -> ImageFacts:
        """The inverse of `columns`."""
        names = ("image.crc32", "image.bytes", "image.size", "image.status")
        return ImageFacts(*(columns[name] for name in names))

    @staticmethod
    def zeros(n: int) -> ImageFacts:
        """Facts to be filled by `put`, of the types of those that were read."""
        return ImageFacts(
            crc32=np.zeros(n, np.uint32),
            num_bytes=np.zeros(n, np.int64),
            size=np.zeros((n, 2), np.int64),
            status=np.zeros(n, np.uint8),
        )

    def put(self, index: np.ndarray, facts: ImageFacts) -> None:
        """Overwrite some of the facts."""
        for name, array in facts.columns.items():
            self.columns[name][index] = array

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> ImageFacts:
        """The same facts with a function applied to each array."""
        return ImageFacts(*map(function, (self.crc32, self.num_bytes, self.size, self.status)))


@dataclass(frozen=True)
class LabeledCrops:
    """Crops of n images, m of each, with their compressed labels: written, read and compared.

    Attributes:
        images: the n image files.
        records: (n, m), where the crops lie; of label maps, the cells of the grid
            (`fkd.store.geometry.grid_boxes`).
        label: of each crop: ids (n, m, K) and values (n, m, V).
    """

    images: ImageFacts
    records: CropRecords
    label: Encoded

    def __getitem__(self, index: Any) -> LabeledCrops:
        """Some of the images, all their crops."""
        return self.map(lambda array: array[index])

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> LabeledCrops:
        """The same crops with a function applied to each array."""
        return LabeledCrops(
            self.images.map(function), self.records.map(function), self.label.map(function)
        )

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by the names of their columns in a plain shard."""
        columns = self.images.columns
        columns |= {"crop.box": self.records.box, "crop.flip": self.records.flip}
        columns |= {f"{_EXTRA}{name}": array for name, array in self.records.extra.items()}
        labels = {"label.index": self.label.ids, "label.value": self.label.values}
        return columns | {name: array for name, array in labels.items() if array is not None}

    @staticmethod
    def from_columns(columns: Mapping[str, np.ndarray]) -> LabeledCrops:
        """The inverse of `columns`."""
        extra = {n.removeprefix(_EXTRA): a for n, a in columns.items() if n.startswith(_EXTRA)}
        return LabeledCrops(
            images=ImageFacts.from_columns(columns),
            records=CropRecords(columns["crop.box"], columns["crop.flip"], extra),
            label=Encoded(columns.get("label.index"), columns.get("label.value")),
        )


@dataclass(frozen=True)
class LabeledImage:
    """All M crops of one image and their labels.

    Attributes:
        key: identity of the image in its source.
        size: height and width of the decoded image.
        records: (M,).
        label: ids (M, K) and values (M, V).
        codec: how to decode them.
        num_classes: C.
    """

    key: bytes
    size: tuple[int, int]
    records: CropRecords
    label: Encoded
    codec: Codec
    num_classes: int

    def decode(self) -> Tensor:
        """The soft label of every crop, float32 (M, C); rows sum to 1."""
        return decode(self.codec, self.label, self.num_classes)


def check_content(config: StoreConfig, keys: Sequence[bytes], content: LabeledCrops) -> None:
    """Refuse arrays that do not fit the config or each other.

    Raises:
        ValueError: says what is wrong.
    """
    _check_shapes(config, len(keys), content)
    _check_keys(keys)
    status = content.images.status
    _require(bool(np.isin(status, (LABELED, UNREADABLE)).all()), "status is neither 0 nor 1")
    labeled = np.flatnonzero(status == LABELED)
    labeled_content = content[labeled]
    _check_boxes(config, labeled_content)
    _check_labels(config, labeled_content.label)


def check_read(config: StoreConfig, crops: LabeledCrops) -> None:
    """Refuse what labeled images cannot have, of crops that were read, quickly.

    Checksums are no defense against a store that was made to do harm: a class id, a crop box or a
    probability out of range would end in a wrong label or outside an array.

    Raises:
        ValueError: says what is wrong.
    """
    _check_inside(crops.records.box, crops.images.size)
    _check_ids(config, crops.label)
    if config.value_dtype != "u16":  # which holds nothing but probabilities
        _check_values(config, crops.label.values)


def _check_shapes(config: StoreConfig, n: int, content: LabeledCrops) -> None:
    m, images = config.num_crops, content.images
    expected = {
        "crc32": (images.crc32, (n,)),
        "num_bytes": (images.num_bytes, (n,)),
        "size": (images.size, (n, 2)),
        "status": (images.status, (n,)),
        "records.box": (content.records.box, (n, m, 4)),
        "records.flip": (content.records.flip, (n, m)),
    }
    _require(
        content.records.extra.keys() == {extra.name for extra in config.extras},
        f"records have the extras {sorted(content.records.extra)}, the config has others",
    )
    for extra in config.extras:
        expected[extra.name] = (content.records.extra[extra.name], (n, m, *extra.shape))
    for name, array, width in (
        ("ids", content.label.ids, config.num_ids),
        ("values", content.label.values, config.num_values),
    ):
        _require((array is None) == (width == 0), f"{name} is given, or missing, against the codec")
        if array is not None:
            expected[name] = (array, (n, m, width))
    for name, (array, shape) in expected.items():
        _require(array.shape == shape, f"{name} has the shape {array.shape}, not {shape}")


def _check_keys(keys: Sequence[bytes]) -> None:
    _require(
        all(0 < len(key) <= MAX_KEY_BYTES for key in keys),
        f"a key has no byte or more than {MAX_KEY_BYTES}",
    )
    ascending = all(a < b for a, b in pairwise(keys))
    _require(ascending, "keys are not in strictly ascending bytewise order")


def _check_boxes(config: StoreConfig, content: LabeledCrops) -> None:
    """Boxes and flips of labeled images."""
    box, flip, size = content.records.box, content.records.flip, content.images.size
    _check_inside(box, size)
    if config.crops is not None:
        numbers = np.broadcast_to(np.arange(config.num_crops), flip.shape)
        images = content.images
        drawn_box, drawn_flip = draw_geometry(
            config.crops, images.crc32, images.num_bytes, size, numbers
        )
        same = np.array_equal(drawn_box, box) and np.array_equal(drawn_flip, flip)
        _require(same, "boxes or flips are not those that the config draws; store them")
    if config.grid is not None:
        same = np.array_equal(box, grid_boxes(config.grid, size)) and not flip.any()
        _require(same, "boxes are not the cells of the grid, unflipped")


def _check_inside(box: np.ndarray, size: np.ndarray) -> None:
    """Boxes (n, m, 4) of images of these sizes (n, 2)."""
    start, length = box[..., :2], box[..., 2:]
    end = size[:, None].astype(np.int64, copy=False)
    outside = (start < 0) | (length <= 0) | (start + length > end)
    _require(not np.count_nonzero(outside), "a crop box leaves its image or is empty")


def _check_ids(config: StoreConfig, label: Encoded) -> None:
    """Known classes, none twice in the label of a teacher: twice makes others negative."""
    if label.ids is None or label.ids.size == 0:
        return
    teachers = config.codec.count if isinstance(config.codec, PerTeacher) else 1
    shape = (*label.ids.shape[:-1], teachers, label.ids.shape[-1] // teachers)
    ordered = np.sort(label.ids.reshape(shape), axis=-1)
    unknown = (ordered[..., 0] < 0) | (ordered[..., -1] >= config.num_classes)
    _require(not np.count_nonzero(unknown), "a class id is out of range")
    twice = ordered[..., 1:] == ordered[..., :-1]
    _require(not np.count_nonzero(twice), "a label names a class twice")


def _check_values(config: StoreConfig, values: np.ndarray | None) -> None:
    """Ranges, written so that a NaN fails too."""
    if values is None or values.size == 0:
        return
    low, high = values.min(), values.max()
    if config.codec.stores == "probabilities":
        sound = low >= 0.0 and high <= 1.0 + _ABOVE_ONE
        _require(bool(sound), "a label value is no probability from 0 to 1")
    else:
        _require(bool(np.isfinite(low) and np.isfinite(high)), "a label value is NaN or infinite")


def _check_labels(config: StoreConfig, label: Encoded) -> None:
    """Ids and values of labeled images."""
    _check_ids(config, label)
    _check_values(config, label.values)
    if (values := label.values) is not None and config.levels is not None:
        falling = (values[..., 1:] <= values[..., :-1]).all()
        _require(bool(falling), "probabilities are not in falling order")
        _require(bool((values[..., 0] > 0).all()), "a label has no probability above 0")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(f"this content cannot be a shard: {otherwise}")
