"""Drawn classes: right on average, which the most probable ones are not."""

import numpy as np
import pytest
import torch

from fkd.errors import ConfigError
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import MarginalRenorm, MarginalSmoothing, decode
from fkd.labels.losses import soft_cross_entropy
from fkd.labels.sampled import Sampled, draw_labels, encode_labels, thresholds
from fkd.randomness import stream_keys

C, DRAWS = 12, 4_000


def labels(count=6, sharpness=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(count, C, generator=generator) * sharpness, 1)


def many_draws(p, k):
    """Decoded labels (DRAWS, C) of one p (C,), by addressed random numbers."""
    draws = draw_labels(stream_keys(0, [b"cat/1.jpg"]), np.arange(DRAWS))
    return decode(Sampled(k), Sampled(k).encode(p.expand(DRAWS, C), draws), C).double()


@pytest.mark.parametrize("k", [1, 2, 5, C])
def test_the_mean_label_is_the_teachers_and_that_of_top_k_is_not(k):
    for p in labels():
        q = many_draws(p, k)
        error = (q.mean(0) - p.double()).abs()
        assert (error <= 4 * q.std(0) / DRAWS**0.5 + 1e-6).all()
        if k < 5:
            for codec in (MarginalSmoothing(k), MarginalRenorm(k)):
                bias = decode(codec, codec.encode(p[None]), C)[0].double() - p
                assert bias.abs().max() > 5 * error.max()


def test_the_mean_gradient_of_the_cross_entropy_is_the_dense_one():
    p, k = labels(1)[0], 3
    z = torch.randn(1, C, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (dense,) = torch.autograd.grad(-(p * z.log_softmax(1)).sum(), z)
    draws = draw_labels(7, np.arange(DRAWS))
    targets = Sampled(k).targets(Sampled(k).encode(p.expand(DRAWS, C), draws), C)
    (sampled,) = torch.autograd.grad(soft_cross_entropy(z.expand(DRAWS, C), targets).mean(), z)
    spread = many_draws(p, k).std(0) / DRAWS**0.5
    assert ((sampled - dense)[0].abs() <= 4 * spread + 1e-6).all()
    top = MarginalRenorm(k)
    targets = top.targets(top.encode(p[None]), C)
    (biased,) = torch.autograd.grad(soft_cross_entropy(z, targets).mean(), z)
    assert (biased - dense).abs().max() > 10 * (sampled - dense).abs().max()


def test_the_threshold_solves_its_equation():
    for k in (1, 3, 7):
        p = labels(50, sharpness=3.0).double().numpy()
        p /= p.sum(1, keepdims=True)
        t = thresholds(p, k)
        np.testing.assert_allclose(np.minimum(1.0, p / t[:, None]).sum(1), k, rtol=1e-9)


@pytest.mark.parametrize("sharpness", [0.0, 0.1, 2.0, 8.0, 60.0])
def test_labels_have_the_form_of_all_top_k_labels(sharpness):
    """K distinct classes, falling values, sum 1; above the threshold each class is exact."""
    p = labels(200, sharpness)
    draws = draw_labels(3, np.arange(200))
    for k in (1, 4, C):
        encoded = Sampled(k).encode(p, draws)
        assert encoded.ids.shape == encoded.values.shape == (200, k)
        assert all(len(set(row)) == k for row in encoded.ids.tolist())
        assert (np.diff(encoded.values, axis=1) <= 0).all()
        np.testing.assert_allclose(encoded.values.sum(1), 1.0, atol=1e-6)
        expected, _ = Sampled(k).values_of(p, encoded.ids)
        np.testing.assert_allclose(encoded.values, expected.values, atol=1e-6)


def test_classes_of_probability_zero_fill_up():
    p = torch.tensor([[0.0, 0.75, 0.0, 0.25]])
    encoded = Sampled(3).encode(p, np.array([0.5]))
    assert encoded.ids.tolist() == [[1, 3, 0]]
    assert encoded.values.tolist() == [[0.75, 0.25, 0.0]]


def test_less_spread_than_drawing_with_repetition():
    p, k = labels(1)[0], 4
    q = many_draws(p, k)
    with_repetition = p.double() * (1 - p.double()) / k
    assert q.var(0).sum() < 0.5 * with_repetition.sum()


def test_draws_are_functions_of_image_and_crop():
    streams = stream_keys(0, [b"a.jpg", b"b.jpg"])
    together = draw_labels(streams[:, None], np.arange(3))
    assert together.shape == (2, 3)
    assert len(np.unique(together)) == 6
    assert draw_labels(streams[1], 2) == together[1, 2]


def test_sampled_labels_of_teachers_side_by_side_are_refused():
    assert parse_codec("sampled:5") == Sampled(5)
    assert Sampled(5) != MarginalRenorm(5)
    with pytest.raises(ConfigError, match="the mean of the teachers is sampled"):
        parse_codec("sampled:5*2")
    with pytest.raises(TypeError, match="a random number each"):
        encode_labels(Sampled(2), labels(), None)
