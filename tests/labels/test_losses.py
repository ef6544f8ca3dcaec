"""The sparse loss against the dense one in float64."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fkd.errors import ConfigError
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import decode
from fkd.labels.embeddings import Embeddings
from fkd.labels.losses import SoftTargetLoss, kl_divergence, soft_cross_entropy
from fkd.labels.targets import SoftTargets, mix_targets

B, C = 16, 50
CODECS = ["full", "hard", "smoothing", "ms:5", "ms:10", "mr:5", "ms:50", "logits"]


def batch(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, C, generator=generator) * 3
    outputs = torch.randn(B, C, generator=generator) * 2
    codec = parse_codec(name)
    encoded = codec.encode(outputs if name == "logits" else outputs.softmax(1))
    targets = codec.targets(encoded, C)
    torch.testing.assert_close(targets.dense(), decode(codec, encoded, C))
    return logits, targets


def dense_oracle(logits, q, temperature=1.0):
    """-sum q log softmax(z / t) and its gradient for the mean, in float64."""
    z = logits.double().requires_grad_()
    loss = -(q.double() * F.log_softmax(z / temperature, dim=1)).sum(1)
    loss.mean().backward()
    return loss.detach(), z.grad


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", CODECS)
def test_loss_and_gradient_equal_the_dense_oracle(name, temperature):
    """Relative to the loss, and to the largest entry of the gradient: 1e-6 in float32."""
    logits, targets = batch(name)
    expected, expected_grad = dense_oracle(logits, targets.dense(), temperature)
    z = logits.clone().requires_grad_()
    loss = soft_cross_entropy(z, targets, temperature)
    loss.mean().backward()
    assert ((loss.double() - expected).abs() / expected.abs()).max() < 1e-6
    assert (z.grad.double() - expected_grad).abs().max() < 1e-6 * expected_grad.abs().max()


@pytest.mark.parametrize("num_classes", [1, 15, 1023, 1025, 3000])
def test_any_number_of_classes_equals_the_dense_oracle(num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(3, num_classes, generator=generator) * 8
    targets = SoftTargets.full(torch.randn(3, num_classes, generator=generator).softmax(1))
    expected, expected_grad = dense_oracle(logits, targets.dense())
    z = logits.clone().requires_grad_()
    loss = soft_cross_entropy(z, targets)
    loss.mean().backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), expected_grad, rtol=1e-5, atol=1e-7)


def test_classes_that_are_masked_out_have_no_share():
    """Logits of -inf; far smaller ones have none either."""
    logits = torch.zeros(2, 2500)
    logits[:, :1100] = -torch.inf
    logits[:, 1200] = -300.0
    z = logits.clone().requires_grad_()
    loss = soft_cross_entropy(z, SoftTargets.one_hot(torch.tensor([1150, 2400]), 2500))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.full((2,), 1399.0).log())
    assert (z.grad[:, :1100] == 0).all()
    assert (z.grad[:, 1200] == 0).all()


@pytest.mark.parametrize("hidden", [torch.nan, math.copysign(torch.nan, -1.0)])
@pytest.mark.parametrize("tail", [0.0, 0.1])
def test_a_nan_among_masked_classes_does_not_hide(hidden, tail):
    """Of both signs: processors make negative ones."""
    logits = torch.zeros(2, 2500)
    logits[:, :1100] = -torch.inf
    logits[1, 7] = hidden
    loss = soft_cross_entropy(logits, SoftTargets.one_hot(torch.tensor([1150, 2400]), 2500, tail))
    assert loss.isnan().tolist() == [False, True]


@pytest.mark.parametrize("value", [torch.nan, math.copysign(torch.nan, -1.0), torch.inf])
@pytest.mark.parametrize("place", [0, 17, 1024, 2499])
def test_a_logit_that_is_no_number_makes_a_loss_that_is_none(value, place):
    logits = torch.randn(2, 2500)
    logits[1, place] = value
    z = logits.requires_grad_()
    loss = soft_cross_entropy(z, SoftTargets.one_hot(torch.tensor([3, 4]), 2500, 0.1))
    loss.sum().backward()
    assert loss.isfinite().tolist() == [True, False]
    assert z.grad.isfinite().all(1).tolist() == [True, False]


def test_large_logits_do_not_overflow():
    """torch keeps 7 digits of the log-sum-exp."""
    top = 200.0
    z = torch.tensor([[top, top - 2.0, -top]], requires_grad=True)
    loss = soft_cross_entropy(z, SoftTargets.one_hot(torch.tensor([1]), 3))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([2.0 + math.log1p(math.exp(-2.0))]))
    expected = torch.tensor([1.0, math.exp(-2.0), 0.0]) / (1.0 + math.exp(-2.0))
    expected -= torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(z.grad[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", CODECS)
def test_two_backward_passes_over_one_graph_add_the_same_gradient_twice(name, temperature):
    """The first one overwrites the probabilities of the forward pass."""
    logits, targets = batch(name)
    z = logits.clone().requires_grad_()
    loss = soft_cross_entropy(z, targets, temperature).mean()
    loss.backward(retain_graph=True)
    once = z.grad.clone()
    loss.backward()
    torch.testing.assert_close(z.grad, 2 * once, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.10
def test_compiled_too_two_backward_passes_add_the_same_gradient_twice():
    logits, targets = batch("ms:5")
    z = logits.clone().requires_grad_()
    loss = torch.compile(lambda z: soft_cross_entropy(z, targets).mean(), backend="eager")(z)
    loss.backward(retain_graph=True)
    once = z.grad.clone()
    loss.backward()
    torch.testing.assert_close(z.grad, 2 * once, rtol=0, atol=0)
    _, expected = dense_oracle(logits, targets.dense())
    torch.testing.assert_close(once.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
@pytest.mark.parametrize("name", CODECS)
def test_an_offset_of_all_logits_changes_nothing(name, offset):
    """float32 keeps three decimal places of such logits."""
    logits, targets = batch(name)
    shifted = soft_cross_entropy(logits + offset, targets)
    expected, _ = dense_oracle((logits + offset) - offset, targets.dense())
    torch.testing.assert_close(shifted.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_class_out_of_range_is_refused():
    for wrong in (C, -1):
        targets = SoftTargets.one_hot(torch.tensor([1, wrong]), C)
        with pytest.raises((IndexError, RuntimeError)):
            soft_cross_entropy(torch.randn(2, C), targets)


def test_targets_of_another_size_are_refused():
    for targets in (
        SoftTargets.one_hot(torch.zeros(3, dtype=torch.int64), C),
        SoftTargets(torch.zeros(4, 3, dtype=torch.int64), torch.ones(4, 2), torch.zeros(4), C),
        SoftTargets.full(torch.ones(3, C) / C),
        SoftTargets(None, torch.ones(4, C - 1), torch.zeros(4), C),
    ):
        with pytest.raises((IndexError, RuntimeError)):
            soft_cross_entropy(torch.randn(4, C), targets)


def test_targets_in_double_precision_count_in_single():
    logits, targets = batch("ms:5")
    lifted = replace(targets, weight=targets.weight.double(), tail=targets.tail.double())
    expected = soft_cross_entropy(logits, targets)
    torch.testing.assert_close(soft_cross_entropy(logits, lifted), expected)


def test_the_gradient_of_rows_that_do_not_lie_side_by_side():
    logits, targets = batch("ms:5")
    wide = torch.cat([logits, logits], 1).requires_grad_()
    soft_cross_entropy(wide[:, :C], targets).sum().backward()
    z = logits.clone().requires_grad_()
    soft_cross_entropy(z, targets).sum().backward()
    torch.testing.assert_close(wide.grad[:, :C], z.grad)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")  # torch 2.10
def test_a_wide_head_needs_the_memory_of_one_more_matrix():
    """The log-probabilities, then the gradient; a dense target would be one further."""
    num_classes, count = 1 << 15, 256
    z = torch.zeros(count, num_classes, requires_grad=True)
    targets = SoftTargets.one_hot(torch.arange(count), num_classes, 0.1)
    with torch.profiler.profile(profile_memory=True) as profile:
        soft_cross_entropy(z, targets).mean().backward()
    assert peak_bytes(profile) < 1.2 * z.nbytes


def peak_bytes(profile):
    """The most memory that was held at a time."""
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("name", CODECS)
def test_the_backward_passes_gradcheck(name):
    logits, targets = batch(name)
    z = logits[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, targets[:3], 2.0), (z,))


@pytest.mark.parametrize("name", ["ms:5", "full"])
def test_half_precision_logits_are_lifted(name):
    logits, targets = batch(name)
    z = logits.bfloat16().requires_grad_()
    loss = soft_cross_entropy(z, targets)
    loss.mean().backward()
    assert loss.dtype == torch.float32
    assert z.grad.dtype == torch.bfloat16
    expected, _ = dense_oracle(logits.bfloat16().float(), targets.dense())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_huge_logits_stay_finite():
    logits, targets = batch("ms:5")
    z = (logits * 1e4).requires_grad_()
    soft_cross_entropy(z, targets).mean().backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ms:5", "hard", "full"])
def test_mixed_labels_give_the_mixture_of_the_losses(name):
    """L(z, a q + (1 - a) q') = a L(z, q) + (1 - a) L(z, q'): cross-entropy is linear in q."""
    logits, targets = batch(name)
    partner, share = torch.randperm(B), torch.rand(B)
    mixed = mix_targets(targets, partner, share)
    loss = soft_cross_entropy(logits, mixed)
    by_parts = share * soft_cross_entropy(logits, targets)
    by_parts += (1 - share) * soft_cross_entropy(logits, targets[partner])
    torch.testing.assert_close(loss, by_parts, rtol=2e-6, atol=1e-6)
    dense = share[:, None] * targets.dense() + (1 - share[:, None]) * targets.dense()[partner]
    torch.testing.assert_close(mixed.dense(), dense)


def test_the_ground_truth_term_is_equation_1():
    logits, targets = batch("ms:5")
    labels = torch.arange(B) % C
    labeled = SoftTargets(targets.index, targets.weight, targets.tail, C, labels)
    loss = SoftTargetLoss(temperature=2.0, soft_weight=0.7)(logits, labeled)
    soft, _ = dense_oracle(logits, targets.dense(), 2.0)
    expected = 0.7 * soft.mean() + 0.3 * F.cross_entropy(logits.double(), labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_a_truth_of_its_own_takes_the_place_of_the_classes():
    logits, targets = batch("ms:5")
    truth = SoftTargets.one_hot(torch.arange(B) % C, C, smoothing=0.2)
    loss = SoftTargetLoss(3.0, 0.4, soft_scale=9.0)(logits, targets, truth)
    soft, _ = dense_oracle(logits, targets.dense(), 3.0)
    hard, _ = dense_oracle(logits, truth.dense(), 1.0)
    expected = 0.4 * 9.0 * soft.mean() + 0.6 * hard.mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_the_divergence_is_kl():
    logits, targets = batch("ms:5")
    q = targets.dense().double()
    expected = F.kl_div(F.log_softmax(logits.double() / 2, 1), q, reduction="none").sum(1)
    ours = kl_divergence(logits, targets, 2.0)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


def test_one_hot_targets_are_ordinary_cross_entropy():
    logits, labels = torch.randn(B, C), torch.randint(0, C, (B,))
    for smoothing in (0.0, 0.1):
        loss = SoftTargetLoss()(logits, SoftTargets.one_hot(labels, C, smoothing))
        torch.testing.assert_close(
            loss, F.cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-6, atol=0
        )


def test_the_entropy_is_the_smallest_loss():
    _, targets = batch("ms:5")
    best = soft_cross_entropy(targets.dense().log(), targets)
    torch.testing.assert_close(targets.entropy(), best, rtol=1e-5, atol=1e-6)


def test_a_student_with_other_classes_is_refused():
    _, targets = batch("ms:5")
    with pytest.raises(ConfigError, match="gives 10 classes but the labels have 50"):
        soft_cross_entropy(torch.zeros(B, 10), targets)


def test_a_ground_truth_term_without_ground_truth_is_refused():
    logits, targets = batch("ms:5")
    with pytest.raises(ConfigError, match="needs the true class"):
        SoftTargetLoss(soft_weight=0.5)(logits, targets)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"soft_weight": 1.5}])
def test_impossible_settings_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SoftTargetLoss(**options)


@pytest.mark.parametrize("loss", [SoftTargetLoss(), soft_cross_entropy, kl_divergence])
def test_embeddings_are_no_soft_labels(loss):
    with pytest.raises(ConfigError, match=r"Embeddings\(crops=2, .* are no soft labels"):
        loss(torch.zeros(2, 4), Embeddings(torch.zeros(2, 4)))
