"""The smallest scale at which every benchmark still measures what it says."""

import pytest
import timm
import torch

from benchmarks.inputs import SCALES, Inputs, Scale
from fkd.models.teacher import TeacherConfig


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> TeacherConfig:
    """A network with random weights in a file."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "weights.pth"
    model = timm.create_model("test_efficientnet", num_classes=1000)
    torch.save(model.state_dict(), file)
    return TeacherConfig(name="test_efficientnet", checkpoint=str(file))


@pytest.fixture(scope="session")
def tiny(teacher) -> Scale:
    return Scale(
        repeats=1,
        cheap_repeats=1,
        photographs=8,
        side=64,
        crop_size=32,
        images=70,
        crops=8,
        read_batches=1,
        batch_size=8,
        loader_batches=1,
        loss_crops=16,
        many_classes=3000,
        passes=2,
        steps=1,
        student="test_byobnet",
        teacher=teacher,
        labeled=(2, 4),
        opened=3000,
    )


@pytest.fixture(scope="session")
def inputs(tiny, tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"), tiny)


@pytest.fixture
def quick_is_tiny(tiny, monkeypatch):
    """The command at the smallest scale."""
    monkeypatch.setitem(SCALES, "quick", tiny)
