"""The sparse binary cross-entropy against torch's dense one in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fkd.errors import ConfigError
from fkd.labels.binary_losses import soft_binary_cross_entropy
from fkd.labels.codec_names import parse_codec
from fkd.labels.losses import SoftTargetLoss, soft_cross_entropy
from fkd.labels.targets import SoftTargets, mix_targets

B, C = 8, 30


def batch(name="sigmoid:5", num_classes=C, seed=0, size=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, num_classes, generator=generator) * size
    codec = parse_codec(name)
    p = torch.sigmoid(torch.randn(B, num_classes, generator=generator) * size)
    return logits, codec.targets(codec.encode(p), num_classes)


def oracle(logits, targets, temperature=1.0, reduction="mean"):
    """The loss of each crop and the gradient of their sum, dense, in float64."""
    z = logits.double().detach().requires_grad_()
    q = targets.dense().double()
    each = F.binary_cross_entropy_with_logits(z / temperature, q, reduction="none")
    loss = each.mean(1) if reduction == "mean" else each.sum(1)
    loss.sum().backward()
    return loss.detach(), z.grad


def require_equal(logits, targets, temperature=1.0, reduction="mean", tolerance=1e-6):
    expected, expected_grad = oracle(logits, targets, temperature, reduction)
    z = logits.detach().clone().requires_grad_()
    loss = soft_binary_cross_entropy(z, targets, temperature, reduction)
    loss.sum().backward()
    assert z.grad.dtype == logits.dtype
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance * 10, atol=tolerance)
    scale = expected_grad.abs().max()
    assert (z.grad.double() - expected_grad).abs().max() <= tolerance * scale


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_classes=st.integers(2, 70),
    size=st.sampled_from([0.1, 3.0, 30.0]),
    temperature=st.sampled_from([1.0, 0.5, 4.0]),
    reduction=st.sampled_from(["mean", "sum"]),
    kind=st.sampled_from(["sigmoid", "sigmoid:1", "sigmoid:2", "sigmoid:2*1"]),
    mixed=st.booleans(),
)
def test_values_and_gradients_are_those_of_dense_targets(
    seed, num_classes, size, temperature, reduction, kind, mixed
):
    logits, targets = batch(kind.removesuffix("*1"), num_classes, seed, size)
    if mixed:
        partner = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
        targets = mix_targets(targets, partner, torch.linspace(0, 1, B))
        assert targets.multi_label
    require_equal(logits.double(), targets, temperature, reduction)


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid:5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    """The gradient is of the dtype of the logits, with its rounding and no other."""
    logits, targets = batch(name, num_classes=3000)
    tolerance = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}[dtype]
    expected = oracle(logits.to(dtype), targets)[0]
    loss = soft_binary_cross_entropy(logits.to(dtype), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    require_equal(logits.to(dtype), targets, tolerance=tolerance)


def test_autocast_and_a_gradient_scaler_change_nothing():
    logits, targets = batch()
    weight = torch.randn(C, C, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = logits @ weight
        loss = soft_binary_cross_entropy(outputs, targets).mean()
    assert (outputs.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    (loss * 1024).backward()
    assert bool(torch.isfinite(weight.grad).all())


def test_only_logits_are_kept_between_the_passes():
    """Nothing of (B, C) besides: the backward pass computes the sigmoids."""
    logits, targets = batch(num_classes=5000)
    kept = []
    z = logits.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = soft_binary_cross_entropy(z, targets).sum()
    large = {t.data_ptr() for t in kept if t.numel() >= logits.numel()}
    assert large == {z.data_ptr()}
    first = torch.autograd.grad(loss, z, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, z)[0], first)


def test_each_loss_refuses_the_targets_of_the_other():
    logits, targets = batch()
    with pytest.raises(ConfigError, match="which a softmax does not learn; use SoftTargetLoss"):
        soft_cross_entropy(logits, targets)
    softmax = SoftTargets.full(logits.softmax(1))
    with pytest.raises(ConfigError, match="which a sigmoid of each class does not learn"):
        soft_binary_cross_entropy(logits, softmax)
    with pytest.raises(ConfigError, match="gives 29 classes but the labels have 30"):
        soft_binary_cross_entropy(logits[:, 1:], targets)
    with pytest.raises(ConfigError, match="reduction"):
        soft_binary_cross_entropy(logits, targets, reduction="none")


def test_the_loss_of_a_loop_follows_the_targets():
    logits, targets = batch()
    loss = SoftTargetLoss(temperature=2.0)
    expected = oracle(logits, targets, 2.0)[0].mean()
    torch.testing.assert_close(loss(logits, targets).double(), expected)
    softmax = SoftTargets.full(logits.softmax(1))
    expected = soft_cross_entropy(logits, softmax, 2.0).mean()
    torch.testing.assert_close(loss(logits, softmax), expected)


def test_true_classes_are_blended_in():
    logits, targets = batch()
    truth = SoftTargets.multi_hot(torch.tensor([[0, 3], [2, -1]] * (B // 2)), C, 0.1)
    expected = 0.7 * oracle(logits, targets)[0] + 0.3 * oracle(logits, truth)[0]
    loss = SoftTargetLoss(soft_weight=0.7)
    torch.testing.assert_close(loss.per_crop(logits, targets, truth).double(), expected)
    with pytest.raises(ConfigError, match=r"give them as the truth \(SoftTargets\.multi_hot\)"):
        loss(logits, targets)
