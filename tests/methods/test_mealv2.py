"""MEAL V2: the ensemble, the discriminator, and which way its gradient goes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fkd.data.batches import Batch
from fkd.errors import ConfigError
from fkd.labels.targets import SoftTargets
from fkd.methods import MealV2Config
from fkd.methods.mealv2 import MealV2, MealV2FKD, build_discriminator
from fkd.models.ensemble import TeacherEnsemble


@pytest.fixture
def batch() -> Batch:
    crops = tuple(torch.randint(0, 256, (4, 3, s, s), dtype=torch.uint8) for s in (32, 48))
    stored = SoftTargets.full(torch.softmax(torch.randn(4, 7), 1))
    return Batch(crops, torch.full((4,), -1), stored)


@pytest.fixture
def build(method_inputs):
    def build_method(kind, teacher=None, discriminator="official"):
        options = MealV2Config(discriminator=discriminator)
        return kind(method_inputs(teacher=teacher, options=options))

    return build_method


def whole_loss(method, logits, targets):
    """What a training step lowers."""
    auxiliary = method.auxiliary_loss(logits, targets)
    loss = method.loss(logits, targets)
    return loss if auxiliary is None else loss + auxiliary


def naive_discriminator_loss(method, student, teachers):
    """Three 1x1 convolutions on (2B, C, 1, 1), a ReLU after each, two outputs."""
    values = torch.cat([student, teachers])[:, :, None, None]
    for linear in method.auxiliary_model:
        if isinstance(linear, nn.Linear):
            values = F.relu(F.conv2d(values, linear.weight[:, :, None, None], linear.bias))
    truth = torch.tensor([[1.0, 0.0]] * len(student) + [[0.0, 1.0]] * len(teachers))
    return F.binary_cross_entropy_with_logits(values[:, :, 0, 0], truth)


def test_the_discriminator_has_the_published_size():
    assert sum(p.numel() for p in build_discriminator(1000).parameters()) == 127_047
    assert [layer.out_features for layer in build_discriminator(1000)[::2]] == [125, 15, 2]
    assert [layer.out_features for layer in build_discriminator(10)[::2]] == [16, 8, 2]


def test_online_it_compares_logits(build, teacher, batch):
    ensemble = TeacherEnsemble([*teacher.teachers, *teacher.teachers])
    method, logits = build(MealV2, ensemble), torch.randn(4, 7)
    said = teacher.logits([batch.crops[1]])
    soft = F.cross_entropy(logits, torch.softmax(said, 1))
    expected = soft + naive_discriminator_loss(method, logits, said)
    torch.testing.assert_close(whole_loss(method, logits, method.targets(batch)), expected)


def test_with_stored_labels_it_compares_probabilities(build, batch):
    method, logits = build(MealV2FKD), torch.randn(4, 7)
    q = batch.targets.dense()
    expected = F.cross_entropy(logits, q) + naive_discriminator_loss(
        method, torch.softmax(logits, 1), q
    )
    torch.testing.assert_close(whole_loss(method, logits, method.targets(batch)), expected)


def test_without_the_discriminator_it_is_soft_cross_entropy(build, batch):
    method, logits = build(MealV2FKD, discriminator="off"), torch.randn(4, 7)
    assert method.auxiliary_model is None
    loss = whole_loss(method, logits, method.targets(batch))
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch.targets.dense()))


def test_reversed_changes_the_sign_for_the_student_only(build, batch):
    torch.manual_seed(0)
    gradients = {}
    for kind in ("off", "official", "reversed"):
        torch.manual_seed(1)
        method = build(MealV2FKD, discriminator=kind)
        logits = torch.linspace(-1, 1, 28).view(4, 7).requires_grad_()
        whole_loss(method, logits, method.targets(batch)).backward()
        own = (
            None
            if method.auxiliary_model is None
            else [p.grad for p in method.auxiliary_model.parameters()]
        )
        gradients[kind] = logits.grad, own
    plain = gradients["off"][0]
    official, adversary = (gradients[kind][0] - plain for kind in ("official", "reversed"))
    assert official.abs().max() > 1e-5
    torch.testing.assert_close(adversary, -official)
    for ours, theirs in zip(gradients["official"][1], gradients["reversed"][1], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_other_kinds_are_refused():
    with pytest.raises(ConfigError, match="'on' is none of official, reversed, off"):
        MealV2Config(discriminator="on")
