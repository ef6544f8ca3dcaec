"""ReActNet-A: published sizes and costs, two values everywhere, and gradients against oracles."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from fkd.models.architectures.reactnet import (
    BinaryConv2d,
    Block,
    ReActNet,
    RSign,
    binary_input,
    binary_weight,
    rename_published,
)
from fkd.models.zoo import build_model
from tests.models.published import as_reactnet

BLOCKS = [11_808, 46_144, 165_376, 182_400, 658_432, 725_248, *[2_627_584] * 5]
BLOCKS += [2_892_288, 10_498_048]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def network() -> ReActNet:
    torch.manual_seed(0)
    return build_model("reactnet_a")


@pytest.mark.parametrize("name", ["reactnet_a", "reactnet_a_step1"])
def test_published_size(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert count(model) == 29_343_592
    assert count(model.stem) == 928
    assert [count(block) for block in model.blocks] == BLOCKS
    assert count(model.head) == 1_025_000


def test_published_operations(network):
    """OPs = binary multiplications / 64 + real ones."""
    binary = real = 0

    def add(module, inputs, output):
        nonlocal binary, real
        places = output.shape[2] * output.shape[3] if output.dim() == 4 else 1
        if isinstance(module, BinaryConv2d):
            binary += module.weight.numel() * places
        else:
            real += module.weight.numel() * places

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    assert binary == pytest.approx(4.817e9, rel=1e-3)
    assert real == pytest.approx(1.186e7, rel=1e-3)
    assert binary / 64 + real == pytest.approx(8.71e7, rel=1e-3)


@pytest.mark.parametrize("image", ["noise", "black"])
def test_inputs_and_weights_of_binary_convolutions_have_two_values(network, image):
    seen = []

    def check(module, inputs):
        seen.append(set(inputs[0].unique().tolist()) <= {-1.0, 1.0})
        weight = binary_weight(module.weight)
        for channel in weight.flatten(1):
            assert channel.unique().numel() <= 2

    convs = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
    hooks = [conv.register_forward_pre_hook(check) for conv in convs]
    images = torch.randn(2, 3, 32, 32) if image == "noise" else torch.zeros(2, 3, 32, 32)
    network.train()(images)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(convs) == 13 + 8 + 2 * 5  # doubled channels have two branches
    assert all(seen)


def test_the_gradient_of_the_sign_is_that_of_the_quadratic_curve():
    x = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64).requires_grad_()
    curve = torch.where(x < 0, x**2 + 2 * x, 2 * x - x**2)
    curve = torch.where(x < -1, -1.0 + 0 * x, torch.where(x >= 1, 1.0 + 0 * x, curve))
    (expected,) = torch.autograd.grad(curve.sum(), x)
    weights = torch.linspace(1, 2, 3001, dtype=torch.float64)
    sign = binary_input(x)
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    (gradient,) = torch.autograd.grad((weights * sign).sum(), x)
    torch.testing.assert_close(gradient, weights * expected)


def test_binary_weights_and_their_gradient():
    torch.manual_seed(0)
    weight = (1.5 * torch.randn(4, 3, 3, 3)).requires_grad_()
    binary = binary_weight(weight)
    for channel in range(4):
        alpha = weight[channel].abs().sum() / 27
        torch.testing.assert_close(binary[channel], alpha * weight[channel].sign())
    upstream = torch.randn(4, 3, 3, 3)
    (gradient,) = torch.autograd.grad(binary, weight, upstream)
    assert torch.equal(gradient, upstream * (weight.abs() <= 1))
    assert 0 < (gradient == 0).sum() < gradient.numel()


def naive_block(block: Block, x, stride):
    """Sec. 6.1 of the specification, step by step, in evaluation mode."""

    def norm(bn, maps):
        shape = (1, -1, 1, 1)
        maps = (maps - bn.running_mean.view(shape)) / (bn.running_var.view(shape) + bn.eps).sqrt()
        return maps * bn.weight.view(shape) + bn.bias.view(shape)

    def binary(weight):
        return weight.sign() * weight.abs().mean((1, 2, 3), keepdim=True)

    def rprelu(act, maps):
        maps = maps + act.before
        return torch.where(maps > 0, maps, act.prelu.weight.view(1, -1, 1, 1) * maps) + act.after

    u = F.conv2d((x + block.sign1.bias).sign(), binary(block.conv1.weight), None, stride, 1)
    y = rprelu(block.act1, norm(block.norm1, u) + (F.avg_pool2d(x, 2) if stride == 2 else x))
    a = (y + block.sign2.bias).sign()
    halves = [
        norm(bn, F.conv2d(a, binary(conv.weight))) + y
        for conv, bn in zip(block.convs2, block.norms2, strict=True)
    ]
    return rprelu(block.act2, torch.cat(halves, 1))


@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 16)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_that_of_the_specification(before, after, stride):
    torch.manual_seed(0)
    block = Block(before, after, stride, binary_weights=True)
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                torch.rand(value.shape) + 0.1 if "var" in name else torch.randn(value.shape)
            )
    x = torch.randn(2, before, 8, 8)
    torch.testing.assert_close(block.eval()(x), naive_block(block, x, stride))


def test_the_bias_of_the_sign_learns():
    sign = RSign(3)
    sign(torch.full((1, 3, 2, 2), 0.25)).sum().backward()
    assert sign.bias.grad.flatten().tolist() == [4 * 1.5] * 3


def test_odd_sides_are_rounded_up_on_both_ways(network):
    with torch.no_grad():
        assert network.eval().forward_features(torch.randn(1, 3, 74, 74)).shape[2:] == (3, 3)


def test_the_second_step_begins_with_the_weights_of_the_first(network):
    first = build_model("reactnet_a_step1")
    second = build_model("reactnet_a")
    second.load_state_dict(first.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(first.eval()(images), second.eval()(images))


@pytest.mark.parametrize(("flat", "unused"), [(False, False), (True, False), (False, True)])
def test_checkpoints_of_the_authors_load(network, flat, unused):
    renamed = rename_published(as_reactnet(network, flat=flat, unused=unused))
    expected = network.state_dict()
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in renamed.items())


def test_our_own_checkpoints_stay_as_they_are(network):
    state = network.state_dict()
    assert rename_published(state).keys() == state.keys()


def test_a_flat_weight_of_another_network_stays_as_it_is(network):
    state = as_reactnet(network, flat=True, unused=False)
    state["feature.1.binary_3x3.weights"] = torch.zeros(7, 1)
    assert rename_published(state)["blocks.0.conv1.weight"].shape == (7, 1)
