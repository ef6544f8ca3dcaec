"""A student and its auxiliary network: one module, one optimizer, one clip, one checkpoint."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fkd.engine.optim import OptimizerConfig
from fkd.engine.state import TrainState


class WithAuxiliary:
    """A method whose auxiliary network maps the student's outputs to a loss."""

    def __init__(self):
        self.auxiliary_model = nn.Linear(2, 1)

    def auxiliary_loss(self, outputs, targets):
        return self.auxiliary_model(outputs).mean()


class Without:
    auxiliary_model = None

    def auxiliary_loss(self, outputs, targets):
        return None


def build(method, **options) -> TrainState:
    torch.manual_seed(0)
    student = nn.Linear(3, 2)
    config = OptimizerConfig(lr=0.1, **options)
    return TrainState.build(student, method, Accelerator(cpu=True), config, ema_decay=None)


@pytest.fixture
def state() -> TrainState:
    return build(WithAuxiliary())


def test_forward_gives_outputs_and_the_auxiliary_loss(state):
    images = torch.randn(4, 3)
    outputs, auxiliary_loss = state.prepared(images, None)
    torch.testing.assert_close(outputs, state.module.student(images))
    torch.testing.assert_close(auxiliary_loss, state.module.auxiliary_model(outputs).mean())
    outputs, auxiliary_loss = build(Without()).prepared(images, None)
    assert auxiliary_loss is None


def test_the_optimizer_has_the_auxiliary_network_as_its_last_group(state):
    student, auxiliary = state.module.student, state.module.auxiliary_model
    *groups, last = state.optimizer.param_groups
    assert list(map(id, last["params"])) == list(map(id, auxiliary.parameters()))
    of_student = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(of_student) == sorted(map(id, student.parameters()))


def test_one_clip_bounds_the_gradient_of_both(state):
    for parameter in state.module.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    state.accelerator.clip_grad_norm_(state.prepared.parameters(), 1.0)
    squares = [parameter.grad.square().sum() for parameter in state.module.parameters()]
    assert float(sum(squares)) == pytest.approx(1.0, rel=1e-5)


def test_a_checkpoint_has_the_plain_names_of_both(state):
    saved = state.state()
    assert list(saved["student"]) == list(saved["auxiliary_model"]) == ["weight", "bias"]
    other = build(WithAuxiliary())
    with torch.no_grad():
        other.module.auxiliary_model.weight.add_(1.0)
    other.load_state(saved)
    assert torch.equal(other.module.auxiliary_model.weight, state.module.auxiliary_model.weight)


def test_the_result_is_the_student_only(state):
    assert state.result is state.module.student
