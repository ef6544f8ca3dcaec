"""Label stores with generated labels, made like those of `fkd label`, only without a teacher.

Reading a label takes as long whatever it says, so most measurements need no teacher: five classes
of 40 that an image brings up, with falling probabilities, from a fixed seed. Crop records are those
that labeling would draw.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fkd.store.roots import default_levels

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data import ImageSource
from fkd.data.sources import load
from fkd.labeling.config import resolve_images_per_shard
from fkd.store import LABELED, LabelStore, ShardContent, StoreWriter, keys_digest

K, NUM_CLASSES = 5, 1000
Labels = tuple[np.ndarray, np.ndarray]  # class ids int64 and probabilities float32, (n, M, 5)
_CANDIDATES = 40  # classes that all labels of one image name together, measured with Lite0


@dataclass(frozen=True)
class ImageFile:
    """What a store knows of an image file: key, checksum, bytes, height and width."""

    key: bytes
    crc32: int
    num_bytes: int
    size: tuple[int, int]


def files_of(source: ImageSource) -> list[ImageFile]:
    """The files of real images."""
    found = []
    for i in range(len(source)):
        loaded = load(source, i)
        size = (loaded.image.shape[1], loaded.image.shape[2])
        found.append(ImageFile(source.key(i), loaded.crc32, loaded.num_bytes, size))
    return found


def invented_files(number: int) -> list[ImageFile]:
    """Files that do not exist, of sizes as in ImageNet."""
    draw = np.random.default_rng(0)
    heights, widths = draw.integers(300, 500, number), draw.integers(350, 600, number)
    return [
        ImageFile(
            key=invented_key(i),
            crc32=zlib.crc32(b"%d" % i),
            num_bytes=110_000,
            size=(int(heights[i]), int(widths[i])),
        )
        for i in range(number)
    ]


def invented_key(i: int) -> bytes:
    """A path as in ImageNet: about 1,300 images in a folder."""
    return b"n%08d/%08d.JPEG" % (i // 1300, i)


def write_store(
    path: Path,
    images: Sequence[ImageFile],
    num_crops: int,
    *,
    class_names: Sequence[str] = (),
    compact: bool = False,
    labels: Labels | None = None,
) -> LabelStore:
    """A finished store of these images, MS-5, with as many shards as `fkd label` makes.

    Args:
        path: folder of the store.
        images: their files.
        num_crops: M.
        class_names: the first of the names; other classes get numbers.
        compact: in the compact form, with boxes drawn again, instead of the plain one.
        labels: real ones (n, M, 5), which the images take in turn; by default generated ones.
    """
    config = store_config([image.key for image in images], num_crops, class_names)
    if compact:
        form = {"format_version": 2, "form": "compact", "geometry": "recomputed"}
        config |= form | {"levels": default_levels(K)}
    with StoreWriter.open(path, config) as writer:
        for number in writer.pending():
            first, stop = writer.shard_range(number)
            if labels is None:
                own = generated_labels(stop - first, num_crops, seed=number)
            else:
                turn = np.arange(first, stop) % len(labels[0])
                own = labels[0][turn], labels[1][turn]
            writer.commit(number, _content(images[first:stop], num_crops, own))
        writer.finish()
    return LabelStore.open(path)


def store_config(
    keys: Sequence[bytes], num_crops: int, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """The identity of a store with these keys; classes that are not named get numbers."""
    crops = CropConfig()
    names = [*class_names, *(f"class {c}" for c in range(len(class_names), NUM_CLASSES))]
    return {
        "format_version": 1,
        "num_images": len(keys),
        "num_crops": num_crops,
        "num_classes": NUM_CLASSES,
        "class_names": names,
        "codec": f"ms:{K}",
        "value_dtype": "u16",
        "extras": {},
        "images_per_shard": resolve_images_per_shard(None, len(keys), num_crops),
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "generated"}],
        "crops": {
            "generator": "philox4x32-10",
            "scale": list(crops.scale),
            "ratio": list(crops.ratio),
            "flip_prob": crops.flip_prob,
            "seed": crops.seed,
        },
    }


def generated_labels(num_images: int, num_crops: int, seed: int) -> Labels:
    """Class ids int64 and probabilities float32, both (num_images, num_crops, 5), highest first."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, NUM_CLASSES - _CANDIDATES, (num_images, 1, 1))
    liking = 4 * draw.standard_normal((num_images, 1, _CANDIDATES))
    logits = liking + 1.5 * draw.standard_normal((num_images, num_crops, _CANDIDATES))
    order = np.argsort(-logits, axis=2)[:, :, :K]
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    probabilities = 0.98 * weights / weights.sum(axis=2, keepdims=True)
    kept = np.take_along_axis(probabilities, order, axis=2)
    return classes + order, kept.astype(np.float32)


def _content(images: Sequence[ImageFile], num_crops: int, labels: Labels) -> ShardContent:
    crops, numbers = CropConfig(), np.arange(num_crops)
    records = [sample_crops(crops, image.key, image.size, numbers) for image in images]
    return ShardContent(
        keys=[image.key for image in images],
        crc32=np.array([image.crc32 for image in images], np.uint32),
        num_bytes=np.array([image.num_bytes for image in images], np.uint64),
        size=np.array([image.size for image in images], np.uint32),
        status=np.full(len(images), LABELED, np.uint8),
        records=CropRecords.stack(records),
        index=labels[0],
        value=labels[1],
    )
