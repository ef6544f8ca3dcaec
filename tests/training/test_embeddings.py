"""Students of embeddings: whole runs from a store of features to a network that others can use."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train


@pytest.fixture(scope="session")
def feature_store(image_folder, tmp_path_factory) -> Path:
    """6 crops of each of the 15 images with features of a network with random weights."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    save_file(
        timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "t.safetensors"
    )
    teacher = TeacherConfig(
        "test_resnet", output="features", checkpoint=str(folder / "t.safetensors"), input_size=32
    )
    label(
        LabelConfig(
            images=ImagesConfig(root=str(image_folder)),
            out=str(folder / "store"),
            teacher=teacher,
            num_crops=6,
            device="cpu",
        )
    )
    return folder / "store"


@pytest.fixture
def config(tmp_path, image_folder, feature_store) -> TrainConfig:
    return TrainConfig(
        out=str(tmp_path / "run"),
        images=ImagesConfig(root=str(image_folder)),
        val=ImagesConfig(root=str(image_folder)),
        store=str(feature_store),
        method="fkd-ssl",
        student=StudentConfig(name="test_resnet", input_size=32),
        crops_per_image=2,
        epochs=6,
        batch_size=8,
        optimizer=OptimizerConfig(name="adamw"),
        schedule=ScheduleConfig(warmup_epochs=1, per_step=True),
        ema_decay=0.9,
        num_workers=0,
        log_every=3,
        device="cpu",
    )


def test_a_run(config):
    print(train(config))
    print(sorted(p.name for p in Path(config.out).iterdir()))
