"""Label stores with generated labels, made like those of `fkd label`, only without a teacher.

Reading a label takes as long whatever it says, so most measurements need no teacher: five classes
of 40 candidates per image, with falling probabilities, from a fixed seed. Crop boxes are those that
labeling would draw.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fkd.crops.records import CropRecords
from fkd.crops.sampling import CropConfig, content_streams, sample_boxes
from fkd.data.sources import ImageSource, load
from fkd.labeling.config import resolve_images_per_shard
from fkd.labels.encoded import Encoded
from fkd.store import LABELED, ImageFacts, LabeledCrops, LabelStore, StoreWriter, keys_digest
from fkd.store.geometry import crops_member

K, NUM_CLASSES = 5, 1000
_CANDIDATES = 40  # classes that all labels of one image name together, measured with Lite0
_IMAGES_PER_FOLDER = 1300  # as in ImageNet
Images = tuple[list[bytes], ImageFacts]
"""Keys in ascending order, and what is known of the files."""


def describe_images(source: ImageSource) -> Images:
    """The images of a source."""
    loaded = [load(source, i) for i in range(len(source))]
    facts = ImageFacts(
        crc32=np.array([image.crc32 for image in loaded], np.uint32),
        num_bytes=np.array([image.num_bytes for image in loaded], np.uint64),
        size=np.array([image.image.shape[1:] for image in loaded], np.uint32),
        status=np.full(len(loaded), LABELED, np.uint8),
    )
    return [source.key(i) for i in range(len(source))], facts


def synthetic_images(number: int) -> Images:
    """Images without files, of sizes as in ImageNet."""
    draw = np.random.default_rng(0)
    sizes = [draw.integers(300, 500, number), draw.integers(350, 600, number)]
    facts = ImageFacts(
        crc32=np.arange(number, dtype=np.uint32),
        num_bytes=np.full(number, 110_000, np.uint64),
        size=np.stack(sizes, axis=1).astype(np.uint32),
        status=np.full(number, LABELED, np.uint8),
    )
    return [b"n%08d/%08d.JPEG" % (i // _IMAGES_PER_FOLDER, i) for i in range(number)], facts


def write_store(
    path: Path,
    images: Images,
    num_crops: int,
    *,
    class_names: Sequence[str] = (),
    labels: Encoded | None = None,
) -> LabelStore:
    """A finished store of these images in plain form, MS-5, with the shards that labeling makes.

    Args:
        path: folder of the store.
        images: what it holds.
        num_crops: M.
        class_names: the first of the names; other classes get numbers.
        labels: real ones (n, M, 5), which the images take in turn; by default generated ones.
    """
    keys, facts = images
    with StoreWriter.open(path, store_config(keys, num_crops, class_names)) as writer:
        for number in writer.pending():
            first, stop = writer.shard_range(number)
            shard_keys = keys[first:stop]
            if labels is None:
                label = generated_labels(stop - first, num_crops, seed=number)
            else:
                assert labels.ids is not None
                label = labels[np.arange(first, stop) % len(labels.ids)]
            shard_facts = facts.map(lambda array, a=first, b=stop: array[a:b])  # type: ignore[misc]
            records = _records(shard_facts, num_crops)
            writer.commit(number, shard_keys, LabeledCrops(shard_facts, records, label))
        writer.finish()
    return LabelStore.open(path)


def store_config(
    keys: Sequence[bytes], num_crops: int, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """The identity of a store with these keys."""
    return {
        "format_version": 1,
        "form": "plain",
        "num_images": len(keys),
        "num_crops": num_crops,
        "num_classes": NUM_CLASSES,
        "class_names": [
            *class_names,
            *(f"class {c}" for c in range(len(class_names), NUM_CLASSES)),
        ],
        "codec": f"ms:{K}",
        "value_dtype": "u16",
        "extras": {},
        "images_per_shard": resolve_images_per_shard(None, len(keys), num_crops),
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "generated"}],
        "crops": crops_member(CropConfig()),
    }


def generated_labels(num_images: int, num_crops: int, seed: int) -> Encoded:
    """Class ids and probabilities (num_images, num_crops, 5), highest first."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, NUM_CLASSES - _CANDIDATES, (num_images, 1, 1))
    image_logits = 4 * draw.standard_normal((num_images, 1, _CANDIDATES))
    logits = image_logits + 1.5 * draw.standard_normal((num_images, num_crops, _CANDIDATES))
    order = np.argsort(-logits, axis=2)[:, :, :K]
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    probabilities = 0.98 * weights / weights.sum(axis=2, keepdims=True)
    kept = np.take_along_axis(probabilities, order, axis=2)
    return Encoded(classes + order, kept.astype(np.float32))


def _records(facts: ImageFacts, num_crops: int) -> CropRecords:
    config = CropConfig()
    numbers = np.broadcast_to(np.arange(num_crops), (len(facts.crc32), num_crops))
    streams = content_streams(config.seed, facts.crc32, facts.num_bytes)
    return CropRecords(*sample_boxes(config, streams, facts.size, numbers))
