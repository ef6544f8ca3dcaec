"""A teacher with random weights, and what methods are built from."""

from collections.abc import Callable

import pytest
import timm
import torch

from fkd.crops.replay import InputSpec
from fkd.methods import MethodInputs
from fkd.models.teacher import TeacherConfig, load_teachers


@pytest.fixture(scope="module")
def teacher_config(tmp_path_factory) -> TeacherConfig:
    """A network with random weights, whose accuracy does not matter."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    return TeacherConfig("test_resnet", checkpoint=str(path), input_size=48)


@pytest.fixture(scope="module")
def teacher(teacher_config):
    return load_teachers([teacher_config])


@pytest.fixture(scope="session")
def method_inputs() -> Callable[..., MethodInputs]:
    """Builds `MethodInputs` of seven classes; everything else is as in a run without options."""

    def build(**changes) -> MethodInputs:
        defaults = {
            "num_classes": 7,
            "student": InputSpec(32, "bilinear"),
            "normalize": lambda crops: crops / 255.0,
            "teacher": None,
            "temperature": 1.0,
            "soft_weight": 1.0,
            "label_smoothing": 0.0,
            "options": None,
        }
        return MethodInputs(**(defaults | changes))

    return build
