"""Small whole stores of every kind, with images, for the drill to change."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fkd.crops.augment import AugmentConfig
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.canary import cpu_name, make_canaries
from fkd.data.decode import DECODER
from fkd.data.folder import FolderSource
from fkd.data.sources import load
from fkd.labels.codec_names import parse_codec
from fkd.labels.projection import Projection
from fkd.store import ImageFacts, LabeledCrops, LabelStore, StoreWriter, form_members, keys_digest
from fkd.store.config import StoreConfig
from fkd.store.geometry import crops_member, grid_boxes
from fkd.store.provenance import projection_members

NUM_CROPS, NUM_CLASSES = 4, 6
CROPS = CropConfig(ratio=(0.75, 1.25))
AUGMENT = AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.1), rand_augment_ops=1, erase_prob=0.5)
# name: form, whether boxes are stored, codec, value type, augmentation
KINDS = {
    "plain": ("plain", True, "ms:2", "u16", AUGMENT),
    "plain f32": ("plain", True, "full", "f32", AugmentConfig()),
    "plain logits": ("plain", True, "logits:2", "f16", AugmentConfig()),
    "separate": ("plain", True, "ms:2*2", "u16", AugmentConfig()),
    "hard": ("plain", True, "hard", None, AugmentConfig()),
    "compact": ("compact", True, "ms:2", None, AUGMENT),
    "recomputed": ("compact", False, "mr:2", None, AugmentConfig()),
    "map": ("map", True, "top:2", "f16", AugmentConfig()),
    "features": ("plain", True, "logits", "i8", AugmentConfig()),
    "packed features": ("compact", False, "logits", "i8", AugmentConfig()),
}


def make_images(folder: Path) -> FolderSource:
    """Five images of noise in two classes."""
    keys = [b"ant/0.png", b"ant/1.png", b"bee/0.png", b"bee/1.png", b"bee/2.png"]
    for i, key in enumerate(keys):
        file = folder / key.decode()
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (12 + i, 20 - i, 3), np.uint8)
        Image.fromarray(noise).save(file)
    return FolderSource(str(folder), keys, [0, 0, 1, 1, 1], ["ant", "bee"])


def make_stores(folder: Path, images: FolderSource) -> dict[str, Path]:
    """A finished store of each kind in `KINDS`."""
    stores = {}
    for kind in KINDS:
        stores[kind] = folder / kind
        config = _config(kind, images)
        with StoreWriter.open(stores[kind], config) as writer:
            for number in writer.pending():
                rows = range(*writer.shard_range(number))
                keys = [images.key(row) for row in rows]
                writer.commit(number, keys, _content(writer.config, images, rows, KINDS[kind][4]))
            canaries = make_canaries(LabelStore.open(stores[kind], partial=True), images)
            environment = {"cpu": cpu_name(), "packages": {"torch": torch.__version__}}
            writer.finish(environment, [canary.in_manifest() for canary in canaries])
    return stores


def _config(kind: str, images: FolderSource) -> dict:
    form, stored, codec, value_dtype, augment = KINDS[kind]
    teacher = {"name": "noise", "input_size": 8, "interpolation": "bilinear", "weight": 1.0}
    config = {
        "num_images": len(images),
        "num_crops": NUM_CROPS,
        "num_classes": NUM_CLASSES,
        "class_names": [f"class {i}" for i in range(NUM_CLASSES)],
        "codec": codec,
        "images_per_shard": 3,
        "keys_sha256": keys_digest(images.key(i) for i in range(len(images))),
        "teachers": [teacher] * (2 if "*" in codec else 1),
        "decoder": DECODER,
        "numerics": {"autocast": None, "batch_size": 4},
    }
    if "features" in kind:
        del config["class_names"]
        config["outputs"] = "features"
        config["projection"] = projection_members(Projection(9, NUM_CLASSES, seed=0))
    config |= form_members(form, parse_codec(codec), NUM_CLASSES, value_dtype)
    if form == "map":
        return config | {"grid": [2, 2]}
    columns = augment.columns.items()
    config["extras"] = {n: {"dtype": np.dtype(d).str[1:], "shape": [*s]} for n, (d, s) in columns}
    config["crops"] = crops_member(CROPS)
    return config | ({"geometry": "stored"} if form == "compact" and stored else {})


def _content(
    config: StoreConfig, images: FolderSource, rows: range, augment: AugmentConfig
) -> LabeledCrops:
    loaded = [load(images, row) for row in rows]
    sizes = np.array([image.size for image in loaded], np.int64)
    numbers = np.arange(NUM_CROPS)
    records = [
        sample_crops(CROPS, image.content_key, image.size, numbers, augment) for image in loaded
    ]
    stacked = type(records[0]).stack(records)
    if config.grid is not None:
        boxes = grid_boxes(config.grid, sizes)
        stacked = type(stacked)(boxes, np.zeros(boxes.shape[:2], bool))
    teachers = (2,) if config.codec.name.endswith("*2") else ()
    shape = (len(rows), NUM_CROPS, *teachers, NUM_CLASSES)
    logits = np.random.default_rng(rows.start).normal(size=shape)
    outputs = torch.from_numpy(logits).float()
    probabilities = config.codec.encodes == "probabilities"
    encoded = config.codec.encode((outputs.softmax(-1) if probabilities else outputs).flatten(0, 1))
    label = encoded.map(lambda array: array.reshape(len(rows), NUM_CROPS, -1))
    facts = ImageFacts(
        crc32=np.array([image.crc32 for image in loaded], np.uint32),
        num_bytes=np.array([image.num_bytes for image in loaded]),
        size=sizes,
        status=np.zeros(len(rows), np.uint8),
    )
    return LabeledCrops(facts, stacked, label)
