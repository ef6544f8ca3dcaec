"""Folding batch norms: the same function with fewer passes, or the network as it was."""

import pytest
import timm
import torch
import torchvision
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from fkd.models.folding import count_batch_norms, fold_batch_norms


def settle(model, seed=0):
    """A network as after training: statistics and scales of every norm its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                if values is not None:
                    values.data.uniform_(low, high, generator=generator)
    return model.eval().requires_grad_(False)


def noise(size=32, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def relative_change(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def norms_left(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize(
    ("build", "size", "folded"),
    [
        (lambda: timm.create_model("test_efficientnet"), 64, 13),
        (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=9), 64, 49),
        (lambda: timm.create_model("resnet18", num_classes=9), 64, 20),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=9), 64, 34),
    ],
    ids=["test_efficientnet", "tf_efficientnet_lite0", "resnet18", "torchvision"],
)
def test_whole_networks_lose_every_norm_and_answer_the_same(build, size, folded):
    torch.manual_seed(0)
    model = settle(build())
    expected = model(noise(size))
    assert fold_batch_norms(model, noise(size, 1)) == folded
    assert norms_left(model) == count_batch_norms(model) == 0
    assert relative_change(model(noise(size)), expected) <= 1e-5
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("first", "norm", "inputs"),
    [
        (lambda: nn.Conv2d(3, 4, 3, bias=False), lambda: nn.BatchNorm2d(4), noise()),
        (lambda: nn.Conv2d(3, 4, 3), lambda: nn.BatchNorm2d(4, affine=False), noise()),
        (lambda: nn.Conv2d(3, 3, 3, groups=3), lambda: nn.BatchNorm2d(3, eps=0.1), noise()),
        (lambda: Conv2dSame(3, 4, 3, stride=2), lambda: BatchNormAct2d(4), noise()),
        (lambda: nn.Conv2d(3, 4, 3), lambda: BatchNormAct2d(4, apply_act=False), noise()),
        (lambda: nn.Conv1d(3, 4, 3), lambda: nn.BatchNorm1d(4), noise()[..., 0]),
        (
            lambda: nn.Conv3d(3, 4, 3),
            lambda: nn.BatchNorm3d(4),
            noise()[..., None].repeat(1, 1, 1, 1, 4),
        ),
    ],
    ids=["plain", "no affine", "depthwise", "timm same", "timm no act", "1d", "3d"],
)
def test_kinds_of_layers(first, norm, inputs):
    torch.manual_seed(0)
    model = settle(nn.Sequential(first(), norm()))
    expected = model(inputs)
    assert fold_batch_norms(model, inputs[:1]) == 1
    assert norms_left(model) == count_batch_norms(model) == 0
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)


class Standardized(nn.Conv2d):
    """A convolution that does something of its own with its weights."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class InPlace(nn.Module):
    """Something between a convolution and its norm that leaves no trace but a version."""

    def forward(self, x):
        return x.relu_()


class Twice(nn.Module):
    """One convolution with two norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.one(self.conv(x)) - self.two(self.conv(x.flip(-1)))


class Reused(nn.Module):
    """The output of the convolution is needed once more."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        convolved = self.conv(x)
        return convolved + self.norm(convolved)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(Standardized(3, 4, 3), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), InPlace(), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)
        ),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, drop_layer=nn.Dropout)),
        Twice,
        Reused,
    ],
    ids=[
        "transposed",
        "own weights",
        "relu between",
        "in place between",
        "norm first",
        "batch statistics",
        "weight norm",
        "drop",
        "shared",
        "reused",
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(build):
    torch.manual_seed(0)
    model = settle(build())
    expected, names = model(noise()), list(model.state_dict())
    assert fold_batch_norms(model, noise(count=1)) == 0
    assert torch.equal(model(noise()), expected)
    assert list(model.state_dict()) == names


def test_a_norm_that_hangs_in_two_places_is_replaced_in_both():
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model.alias = nn.ModuleList([model[1]])
    model.forward = lambda x: model.alias[0](model[0](x))
    expected = model(noise())
    assert fold_batch_norms(model, noise(count=1)) == 1
    torch.testing.assert_close(model(noise()), expected, rtol=1e-5, atol=1e-5)
