"""CUDA without a GPU: tensors that have a device, a dtype and a shape, but no numbers."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fkd.models.ensemble import TeacherEnsemble
from fkd.models.single_teacher import Teacher


@pytest.fixture
def fake(monkeypatch):
    """A mode in which `cuda` tensors exist everywhere, and mixing devices raises.

    What asks for the numbers of a tensor is left out: they are not there.
    """
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(Teacher, "_refuse_not_finite", lambda *_: None)
    return FakeTensorMode(allow_non_fake_inputs=False)


def on_cuda(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of a network whose weights and buffers lie on a GPU."""
    clone = copy.deepcopy(module)
    for part in clone.modules():
        for name, value in part._parameters.items():
            if value is not None:
                moved = _moved(value.detach(), mode)
                part._parameters[name] = nn.Parameter(moved, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = _moved(value, mode)
    return clone


def _moved(value: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake = mode.from_tensor(value)
    with mode:  # or torch would look for a driver
        return fake.to("cuda")


def teachers_on_cuda(ensemble: TeacherEnsemble, mode: FakeTensorMode) -> TeacherEnsemble:
    """The same for teachers; the outputs they choose stay on the CPU, as in `Teacher.to`."""
    clone = copy.copy(ensemble)
    clone.teachers = []
    for teacher in ensemble.teachers:
        moved = copy.copy(teacher)
        moved.model = on_cuda(teacher.model, mode)
        if teacher._columns is not None:
            moved._columns = mode.from_tensor(teacher._columns)
        clone.teachers.append(moved)
    return clone


def crops(count, side, device="cuda"):
    """Inside a mode: uint8 crops."""
    return torch.zeros(count, 3, side, side, dtype=torch.uint8).to(device)


@pytest.fixture(scope="session")
def tools():
    """The functions above."""
    return on_cuda, teachers_on_cuda, crops
