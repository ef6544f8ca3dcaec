"""What a shard holds and reading returns: image files, crops of them, and their labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.labels.codecs import Codec, Encoded, decode
from fkd.store.config import StoreConfig

LABELED, UNREADABLE = 0, 1
Buffers: TypeAlias = dict[str, np.ndarray]  # by the name of the column in a shard


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

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "ImageFacts":
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

    def __getitem__(self, index: Any) -> "LabeledCrops":
        """Some of the images, all their crops."""
        images = self.images.map(lambda array: array[index])
        return LabeledCrops(images, self.records[index], self.label[index])


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


def image_facts(buffers: Buffers) -> ImageFacts:
    """Facts from the image.* columns of some rows."""
    return ImageFacts(
        crc32=buffers["image.crc32"],
        num_bytes=buffers["image.bytes"],
        size=buffers["image.size"],
        status=buffers["image.status"],
    )


def labeled_crops(config: StoreConfig, buffers: Buffers) -> LabeledCrops:
    """Crops from the columns of some rows."""
    return LabeledCrops(
        images=image_facts(buffers),
        records=CropRecords(
            box=buffers["crop.box"],
            flip=buffers["crop.flip"],
            extra={extra.name: buffers[f"crop.extra.{extra.name}"] for extra in config.extras},
        ),
        label=Encoded(buffers.get("label.index"), buffers.get("label.value")),
    )
