"""A teacher that takes milliseconds, settings to label with it, and a look at a store's bytes."""

from dataclasses import fields
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.data.sources import ImagesConfig
from fkd.labeling.config import LabelConfig
from fkd.labeling.estimate import CostEstimate, PlanConfig, plan
from fkd.labels.codec_names import parse_codec
from fkd.models.teacher import TeacherConfig


def write_teacher(
    file, seed=0, name="test_efficientnet", num_classes=7, **options
) -> TeacherConfig:
    """Random weights, with a head that makes up its mind.

    Convolutions of this network change in the last bits with the number of threads that share them.
    """
    torch.manual_seed(seed)
    state = timm.create_model(name, num_classes=num_classes).state_dict()
    head = [key for key in state if key.startswith("classifier.")]
    save_file({key: value * (300 if key in head else 1) for key, value in state.items()}, file)
    return TeacherConfig(name, checkpoint=str(file), **({"input_size": 32} | options))


@pytest.fixture(scope="session")
def make_teacher():
    return write_teacher


@pytest.fixture(scope="session")
def files_of():
    """Every file of a store but the lock: name to bytes."""

    def read(store) -> dict[str, bytes]:
        paths = [p for p in Path(store).rglob("*") if p.is_file() and p.name != "lock"]
        return {str(path.relative_to(store)): path.read_bytes() for path in paths}

    return read


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> TeacherConfig:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "model.safetensors")


@pytest.fixture(scope="session")
def make_config(teacher, image_folder):
    """A run on 15 images with 5 crops each, shards of 4 images and batches of 8 crops."""

    def make(out, **options) -> LabelConfig:
        settings = {
            "images": ImagesConfig(root=str(image_folder)),
            "teacher": None if "teachers" in options else teacher,
            "num_crops": 5,
            "codec": "ms:3",
            "images_per_shard": 4,
            "batch_size": 8,
            "accuracy_images": 0,
            "spot_checks": 16,
        }
        settings |= options
        settings["codec"] = parse_codec(settings["codec"])
        return LabelConfig(out=str(out), **settings)

    return make


@pytest.fixture
def planned():
    """Plans a labeling run, measured for a moment only."""

    def make(config: LabelConfig, **options) -> CostEstimate:
        settings = {field.name: getattr(config, field.name) for field in fields(config)}
        return plan(PlanConfig(**settings, **options), sample_seconds=0.05)

    return make
