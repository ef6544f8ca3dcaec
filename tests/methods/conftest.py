"""A teacher that is only asked, never judged."""

import pytest
import timm
import torch

from fkd.models import TeacherConfig, load_teachers


@pytest.fixture(scope="module")
def teacher_config(tmp_path_factory) -> TeacherConfig:
    """A network with random weights; it is only asked, never judged."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    return TeacherConfig("test_resnet", checkpoint=str(path), input_size=48)


@pytest.fixture(scope="module")
def teacher(teacher_config):
    return load_teachers([teacher_config])
