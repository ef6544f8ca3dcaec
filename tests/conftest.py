"""Small real things that tests of several packages share: image folders and label stores."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, ImageSource, load, open_source
from fkd.labels.codec_names import parse_codec
from fkd.store import ImageFacts, LabeledCrops, LabelStore, StoreWriter, form_members, keys_digest
from fkd.store.config import has_value_dtype
from fkd.store.geometry import grid_boxes

pytest_plugins = ["drill.plugin"]

# Threads of several test processes on few cores wait for each other longer than they compute.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks():
    """Nothing here cuts the power (test_power_loss.py simulates it), so fsync returns at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def write_images(root: Path, classes=("ant", "bee", "cat"), per_class=5, seed=0) -> Path:
    """Class folders of small PNG images of assorted sizes; each class has a color of its own."""
    draw = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            height, width = draw.integers(24, 48, 2)
            pixels = draw.integers(0, 120, (height, width, 3), dtype=np.uint8)
            pixels[..., number % 3] += 130
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def write_store(
    path: Path,
    source: ImageSource,
    num_crops=6,
    codec="ms:2",
    value_dtype="u16",
    class_names=("ant", "bee", "cat", "dog"),
    unreadable=(),
) -> LabelStore:
    """A store of these images whose labels lean towards the true class."""
    keys = [source.key(i) for i in range(len(source))]
    if not has_value_dtype("plain", parse_codec(codec), len(class_names)):
        value_dtype = None
    config = {
        **form_members("plain", parse_codec(codec), len(class_names), value_dtype),
        "num_images": len(keys),
        "num_crops": num_crops,
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "codec": codec,
        "extras": {},
        "images_per_shard": 4,
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "color"}],
    }
    with StoreWriter.open(path, config) as writer:
        for shard in writer.pending():
            rows = range(*writer.shard_range(shard))
            writer.commit(shard, *_content(source, rows, config, unreadable))
        writer.finish({}, [])
    return LabelStore.open(path)


def _content(source, rows, config, unreadable) -> tuple[list[bytes], LabeledCrops]:
    loaded = [load(source, i) for i in rows]
    crops = CropConfig()
    numbers = np.arange(config["num_crops"])
    codec = parse_codec(config["codec"])
    labels = torch.cat([_probabilities(source, i, config) for i in rows])
    encoded = codec.encode(labels)
    shape = (len(rows), config["num_crops"], -1)
    records = CropRecords.stack(
        [sample_crops(crops, image.content_key, image.size, numbers) for image in loaded]
    )
    images = _facts(loaded, [i in unreadable for i in rows])
    label = encoded.map(lambda array: array.reshape(shape))
    return [source.key(i) for i in rows], LabeledCrops(images, records, label)


def _facts(loaded, unreadable) -> ImageFacts:
    return ImageFacts(
        crc32=np.array([image.crc32 for image in loaded], np.uint32),
        num_bytes=np.array([image.num_bytes for image in loaded], np.uint64),
        size=np.array([tuple(image.image.shape[1:]) for image in loaded], np.uint32),
        status=np.array(unreadable, np.uint8),
    )


def write_maps(
    path: Path,
    source: ImageSource,
    grid=(3, 4),
    k=2,
    class_names=("ant", "bee", "cat", "dog"),
    unreadable=(),
) -> LabelStore:
    """Label maps of these images: random logits that lean towards the true class."""
    keys = [source.key(i) for i in range(len(source))]
    config = {
        **form_members("map", parse_codec(f"top:{k}"), len(class_names)),
        "grid": list(grid),
        "num_images": len(keys),
        "num_crops": grid[0] * grid[1],
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "codec": f"top:{k}",
        "images_per_shard": 4,
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "color"}],
    }
    with StoreWriter.open(path, config) as writer:
        for shard in writer.pending():
            rows = range(*writer.shard_range(shard))
            writer.commit(shard, *_map_content(source, rows, config, unreadable))
        writer.finish({}, [])
    return LabelStore.open(path)


def _map_content(source, rows, config, unreadable) -> tuple[list[bytes], LabeledCrops]:
    loaded = [load(source, i) for i in rows]
    logits = 3 * torch.cat([_probabilities(source, i, config).log() for i in rows]) + 6
    encoded = parse_codec(config["codec"]).encode(logits)
    shape = (len(rows), config["num_crops"])
    images = _facts(loaded, [i in unreadable for i in rows])
    records = CropRecords(grid_boxes(tuple(config["grid"]), images.size), np.zeros(shape, bool))
    label = encoded.map(lambda array: array.reshape(*shape, -1))
    return [source.key(i) for i in rows], LabeledCrops(images, records, label)


def _probabilities(source, i, config) -> torch.Tensor:
    generator = torch.Generator().manual_seed(i)
    logits = torch.randn(config["num_crops"], config["num_classes"], generator=generator)
    logits[:, max(source.label(i), 0)] += 2.0
    return torch.softmax(logits, 1)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """15 images in the class folders ant, bee, cat."""
    return write_images(tmp_path_factory.mktemp("images") / "train")


@pytest.fixture(scope="session")
def image_source(image_folder) -> ImageSource:
    return open_source(ImagesConfig(root=str(image_folder)))


@pytest.fixture(scope="session")
def label_store(image_source, tmp_path_factory) -> LabelStore:
    """6 crops of each of these images, labels ms:2 over ant, bee, cat, dog."""
    return write_store(tmp_path_factory.mktemp("labels") / "store", image_source)


@pytest.fixture(scope="session")
def map_store(image_source, tmp_path_factory) -> LabelStore:
    """Label maps of these images, 3 x 4 cells with 2 of 4 classes each."""
    return write_maps(tmp_path_factory.mktemp("maps") / "store", image_source)


@pytest.fixture(scope="session")
def make_maps():
    return write_maps


@pytest.fixture(scope="session")
def make_images():
    return write_images


@pytest.fixture(scope="session")
def make_store():
    return write_store
