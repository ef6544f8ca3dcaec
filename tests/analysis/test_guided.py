"""Guided backpropagation against naive ReLUs, for every way to write one in a network."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fkd.analysis.guided import guided_gradient, other_activations

captum = pytest.importorskip("captum.attr", reason="the extra `analysis` is needed")


def naive_relu(x, top=None):
    """A ReLU whose gradient is g * 1[x > 0] * 1[g > 0], by a mask and a hook on its output."""
    mask = (x > 0) if top is None else (x > 0) & (x < top)
    output = x * mask if top is None else x * mask + top * (x >= top)
    if output.requires_grad:
        output.register_hook(lambda g: torch.where(g > 0, g, 0.0))
    return output


def naive_hardtanh(x, min_val=-1.0, max_val=1.0, inplace=False):
    assert min_val == 0.0
    return naive_relu(x, max_val)


def naive_guided_gradient(model, images, classes, patch):
    """By networks whose ReLUs, modules included, all call torch.nn.functional."""
    patch.setattr(F, "relu", lambda x, inplace=False: naive_relu(x))
    patch.setattr(F, "relu6", lambda x, inplace=False: naive_relu(x, 6.0))
    patch.setattr(F, "hardtanh", naive_hardtanh)
    pixels = images.clone().requires_grad_()
    logits = model(pixels)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), pixels)
    patch.undo()
    return gradient


def plain_network():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )


NETWORKS = {
    "plain": plain_network,
    "one in-place ReLU per block": lambda: torchvision.models.resnet18(num_classes=5),
    "timm": lambda: timm.create_model("resnet10t", num_classes=5),
    "pre-activation": lambda: timm.create_model("resnetv2_18", num_classes=5),
    "function": lambda: torchvision.models.densenet121(num_classes=5),
    "in-place function": lambda: torchvision.models.googlenet(
        num_classes=5, aux_logits=False, init_weights=False
    ),
    "ReLU6": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=5),
    "ReLU6 of torchvision": lambda: torchvision.models.mobilenet_v2(num_classes=5),
    "beside other activations": lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
}


def example(build, size=64):
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():  # or small random networks give tiny gradients
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.2, 1.0)
    return model, torch.randn(2, 3, size, size), torch.tensor([1, 3])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_way_to_write_a_relu(name, monkeypatch):
    model, images, classes = example(NETWORKS[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = guided_gradient(model, images, classes)
    expected = naive_guided_gradient(model, images, classes, monkeypatch)
    plain = naive_plain_gradient(model, images, classes)
    assert float(expected.abs().max()) > 0
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)
    assert float((found - plain).abs().max() / plain.abs().max()) > 1e-2
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def naive_plain_gradient(model, images, classes):
    pixels = images.clone().requires_grad_()
    chosen = model(pixels).gather(1, classes[:, None]).sum()
    return torch.autograd.grad(chosen, pixels)[0]


WAYS = {
    "module": nn.ReLU(),
    "module, in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function, in place": lambda x: F.relu(x, inplace=True),
    "function, in place by position": lambda x: F.relu(x, True),
    "function of torch": torch.relu,
    "function of torch, in place": torch.relu_,
    "method": lambda x: x.relu(),
    "method, in place": lambda x: x.relu_(),
    "in place, the result not used": lambda x: (x.relu_(), x)[1],
    "in place of a view": lambda x: (x[:, ::2].relu_(), x[:, 1::2].relu_(), x)[2],
}
WAYS_TO_6 = {
    "module": nn.ReLU6(),
    "module, in place": nn.ReLU6(inplace=True),
    "function": F.relu6,
    "function, in place": lambda x: F.relu6(x, inplace=True),
    "hardtanh": nn.Hardtanh(0.0, 6.0),
    "hardtanh by position": lambda x: F.hardtanh(x, 0.0, 6.0),
}


@pytest.mark.parametrize(
    ("way", "top"),
    [(way, None) for way in WAYS.values()] + [(way, 6.0) for way in WAYS_TO_6.values()],
    ids=[*WAYS, *(f"6: {name}" for name in WAYS_TO_6)],
)
def test_one_relu_between_two_layers(way, top):
    """h = W x, z = V relu(h): the gradient is W' (V' * 1[h > 0] * 1[V' > 0]), by loops."""
    torch.manual_seed(1)
    first, second = 6 * torch.randn(16, 3, 1, 1), torch.randn(4, 16)
    image, target = torch.randn(1, 3, 1, 1), 2

    def network(x):
        return way(F.conv2d(x, first)).flatten(1) @ second.T

    hidden = [sum(float(first[j, i] * image[0, i]) for i in range(3)) for j in range(16)]
    assert top is None or max(hidden) > top
    passed = [
        float(second[target, j])
        if 0 < hidden[j] < (top or float("inf")) and second[target, j] > 0
        else 0.0
        for j in range(16)
    ]
    assert any(passed)
    expected = [sum(passed[j] * float(first[j, i]) for j in range(16)) for i in range(3)]
    found = guided_gradient(network, image, torch.tensor([target]))
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["plain", "one in-place ReLU per block"])
def test_captum_agrees_where_relus_are_modules_with_inputs_of_their_own(name):
    model, images, classes = example(NETWORKS[name])
    found = guided_gradient(model, images, classes)
    with pytest.warns(UserWarning, match="hooks on ReLU"):
        expected = captum.GuidedBackprop(model).attribute(images.requires_grad_(), classes)
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 29), nn.SiLU(), nn.Flatten(), nn.Linear(64, 5)),
        lambda: nn.Sequential(nn.Flatten(), nn.Hardtanh(), nn.Linear(3072, 5)),
        lambda: timm.create_model("test_vit", num_classes=5, img_size=32),
    ],
)
def test_no_relu(build):
    model, images, classes = example(build, 32)
    assert guided_gradient(model, images, classes) is None


def test_the_gradient_of_others_is_left_alone():
    model, images, classes = example(plain_network, 8)
    before = naive_plain_gradient(model, images, classes)
    guided_gradient(model, images, classes)
    assert torch.equal(naive_plain_gradient(model, images, classes), before)
    with torch.no_grad():
        assert guided_gradient(model, images, classes) is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_that_the_first_layer_changes():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3))
    images = torch.randn(2, 3, 2, 2)
    kept = images.clone()
    found = guided_gradient(model, images, torch.tensor([0, 1]))
    assert torch.equal(images, kept)
    assert bool((found[kept <= 0] == 0).all())


def test_other_activations_are_named():
    modules = [nn.GELU(), nn.ReLU(), nn.SiLU(), nn.Sigmoid(), nn.GELU(), nn.Conv2d(1, 1, 1)]
    assert other_activations(modules) == ["GELU", "SiLU"]
