"""The protocols of papers: optimizer and schedule against naive versions, and what is trained."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fkd.errors import ConfigError
from fkd.evaluation.features import FeatureRequest
from fkd.evaluation.protocols import (
    LabeledRequest,
    Machine,
    ProtocolConfig,
    build_optimizer,
    new_classifier,
    train_classifier,
)
from fkd.models.preprocessing import Preprocessing

LOOK = Preprocessing(
    input_size=8, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.875
)
CPU = torch.device("cpu")


class Backbone(nn.Module):
    """Mean colors, through a batch norm whose statistics must stay; knows what it has seen."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.seen = []

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(images)
        return self.norm(images.mean((2, 3)))


@pytest.fixture
def images(image_source):
    request = FeatureRequest(Backbone(), LOOK, image_source)
    return LabeledRequest(request=request, chosen=torch.arange(15), num_features=3, num_classes=3)


def train(images, num_workers=0, batch_size=4, **options):
    machine = Machine(device=CPU, batch_size=batch_size, num_workers=num_workers)
    done = []
    classifier = train_classifier(images, ProtocolConfig(**options), machine, done.append)
    return classifier, done


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_a_step_is_that_of_the_equations(name):
    """LARS, You et al., Eq. 6, without weight decay; in float64, one number at a time."""
    layer = new_classifier(4, 3, seed=0).double()
    weight, bias = (p.detach().clone().numpy() for p in (layer.weight, layer.bias))
    velocity = [np.zeros_like(weight), np.zeros_like(bias)]
    optimizer = build_optimizer(name, layer)
    rng = np.random.default_rng(0)
    for step in range(5):
        rate = 0.3 / (1 + step)
        gradients = [rng.normal(size=weight.shape), rng.normal(size=bias.shape)]
        for value, gradient, speed in zip((weight, bias), gradients, velocity, strict=True):
            norms = [math.sqrt(sum(x * x for x in a.reshape(-1))) for a in (value, gradient)]
            adapted = name == "lars" and norms[0] > 0
            share = 0.001 * norms[0] / norms[1] if adapted else 1.0
            speed[...] = 0.9 * speed + share * gradient
            value -= rate * speed
        for parameter, gradient in zip((layer.weight, layer.bias), gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach().numpy(), weight, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(layer.bias.detach().numpy(), bias, rtol=1e-6, atol=1e-12)


def test_the_settings_are_those_of_the_papers():
    sgd, lars = ProtocolConfig(name="sgd"), ProtocolConfig(name="lars")
    assert (sgd.num_epochs, sgd.images_per_step(10_000)) == (100, 256)
    assert (lars.num_epochs, lars.images_per_step(10_000)) == (90, 4096)
    rates = [sgd.learning_rate(epoch, 256) for epoch in (0, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = [lars.learning_rate(epoch, 4096) for epoch in (0, 45, 89)]
    assert rates == pytest.approx([1.6, 0.8, 0.8 * (1 + math.cos(math.pi * 89 / 90))])
    assert lars.images_per_step(1000) == 1000
    assert replace(sgd, epochs=10).learning_rate(6, 256) == pytest.approx(0.01)


def test_a_classifier_begins_near_zero():
    layer = new_classifier(2000, 100, seed=0)
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize(("name", "lr"), [("sgd", 1.0), ("lars", 1000.0)])
def test_colors_are_learned(images, name, lr):
    """So few steps of LARS, each a thousandth of the weights, need a high rate."""
    classifier, done = train(images, name=name, epochs=25, lr=lr)
    assert sum(done) == 25 * 15
    colors = 2.0 * torch.eye(3) - 0.6
    assert classifier(colors).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_has_other_crops_and_the_backbone_stays(images, num_workers):
    network = images.request.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, done = train(images, num_workers, name="sgd", epochs=2)
    assert done == [0, 15, 15]
    assert [len(batch) for batch in network.seen] == [4, 4, 4, 3] * 2
    crops = torch.cat(network.seen).flatten(1)
    assert len(crops.unique(dim=0)) == 30
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_result_depends_neither_on_threads_nor_on_the_portions(images):
    reference, _ = train(images, name="lars", epochs=3)
    for num_workers, batch_size in ((2, 4), (0, 15), (0, 2)):
        other, _ = train(images, num_workers, batch_size, name="lars", epochs=3)
        torch.testing.assert_close(other.weight, reference.weight)


def test_steps_have_the_images_of_the_protocol_not_of_the_forward_pass(image_source):
    request = FeatureRequest(Backbone(), LOOK, image_source)
    images = LabeledRequest(
        request=request, chosen=torch.tensor([0, 1, 5, 6, 10, 11]), num_features=3, num_classes=3
    )
    machine = Machine(device=CPU, batch_size=2)
    steps = []
    config = ProtocolConfig(name="sgd", epochs=1, batch_size=4)
    train_classifier(images, config, machine, steps.append)
    assert steps == [0, 4, 2]


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_a_killed_training_goes_on_after_its_last_epoch(images, tmp_path, name):
    machine = Machine(device=CPU, batch_size=4)
    config = ProtocolConfig(name=name, epochs=4)
    reference = train_classifier(images, config, machine, lambda count: None)
    seen: list[int] = []

    def stop(count):
        seen.append(count)
        if sum(seen) > 30:  # in the third epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(images, config, machine, stop, tmp_path)
    images.request.network.seen.clear()
    done = []
    found = train_classifier(images, config, machine, done.append, tmp_path)
    assert torch.equal(found.weight, reference.weight)
    assert torch.equal(found.bias, reference.bias)
    assert done == [30, 15, 15]
    assert sum(map(len, images.request.network.seen)) == 30
    images.request.network.seen.clear()
    train_classifier(images, config, machine, done.append, tmp_path)
    assert images.request.network.seen == []  # all epochs are done
    train_classifier(images, replace(config, seed=1), machine, done.append, tmp_path)
    assert len(images.request.network.seen) == 16  # another training begins at its beginning


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_damaged_state_is_no_state(images, tmp_path, content):
    machine, config = Machine(device=CPU), ProtocolConfig(name="sgd", epochs=1)
    train_classifier(images, config, machine, lambda count: None, tmp_path)
    (file,) = tmp_path.glob("classifier-*.safetensors")
    file.write_bytes(content)
    done = []
    train_classifier(images, config, machine, done.append, tmp_path)
    assert done == [0, 15]


def test_a_rate_that_is_too_high_is_named(images):
    with torch.no_grad():
        images.request.network.norm.weight *= 1e30
    with pytest.raises(ConfigError, match=r"protocol\.lr: the classifier diverged in epoch \d"):
        train(images, name="sgd", epochs=5, lr=1e30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adam"}, "protocol.name: 'adam' is none of sweep, sgd, lars"),
        ({"lr": 0.1}, "protocol.lr: protocol sweep does not use it"),
        ({"name": "sgd", "learning_rates": (1.0,)}, "protocol.learning_rates: protocol sgd does"),
        ({"learning_rates": ()}, "protocol.learning_rates is empty"),
        ({"learning_rates": (0.1, -1.0)}, "protocol.learning_rates must be above 0"),
        ({"epochs": 0}, "protocol.epochs must be at least 1"),
        ({"batch_size": 0}, "protocol.batch_size must be at least 1"),
        ({"name": "lars", "lr": 0.0}, "protocol.lr must be above 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        ProtocolConfig(**options)
    assert message in str(caught.value)
