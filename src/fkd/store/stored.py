"""What reading returns: facts about image files, and crops with their compressed labels."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.labels.codecs import Codec, Encoded, decode
from fkd.store.config import StoreConfig

Buffers: TypeAlias = dict[str, np.ndarray]  # by the name of the column in a shard


@dataclass(frozen=True)
class ImageFacts:
    """What a store knows of B image files.

    Attributes:
        crc32: uint32 (B,), zlib's CRC-32 of the file.
        num_bytes: int64 (B,), length of the file.
        size: int64 (B, 2), height and width after decoding.
        status: uint8 (B,), 0 labeled, 1 unreadable (all else is 0 then).
    """

    crc32: np.ndarray
    num_bytes: np.ndarray
    size: np.ndarray
    status: np.ndarray


@dataclass(frozen=True)
class StoredCrops:
    """Crops of B images, m of each, with their compressed labels.

    Attributes:
        records: (B, m), where the crops lie.
        index: int64 (B, m, K), or None where the codec has none.
        value: float32 (B, m, V), or None where the codec has none.
        images: the B images, to check the files against.
    """

    records: CropRecords
    index: np.ndarray | None
    value: np.ndarray | None
    images: ImageFacts


@dataclass(frozen=True)
class Entry:
    """All M crops of one image and their labels.

    Attributes:
        key: identity of the image in its source.
        size: height and width of the decoded image.
        records: (M,).
        index: int64 (M, K), or None where the codec has none.
        value: float32 (M, V), or None where the codec has none.
        codec: how to decode them.
        num_classes: C.
    """

    key: bytes
    size: tuple[int, int]
    records: CropRecords
    index: np.ndarray | None
    value: np.ndarray | None
    codec: Codec
    num_classes: int

    def decode(self) -> Tensor:
        """The soft label of every crop, float32 (M, C); rows sum to 1."""
        index = None if self.index is None else torch.from_numpy(self.index)
        value = None if self.value is None else torch.from_numpy(self.value)
        return decode(self.codec, Encoded(index, value), self.num_classes)


def image_facts(buffers: Buffers) -> ImageFacts:
    """Facts from the image.* columns of some rows."""
    return ImageFacts(
        crc32=buffers["image.crc32"],
        num_bytes=buffers["image.bytes"],
        size=buffers["image.size"],
        status=buffers["image.status"],
    )


def stored_crops(config: StoreConfig, buffers: Buffers) -> StoredCrops:
    """Crops from the columns of some rows."""
    return StoredCrops(
        records=CropRecords(
            box=buffers["crop.box"],
            flip=buffers["crop.flip"],
            extra={extra.name: buffers[f"crop.extra.{extra.name}"] for extra in config.extras},
        ),
        index=buffers.get("label.index"),
        value=buffers.get("label.value"),
        images=image_facts(buffers),
    )
