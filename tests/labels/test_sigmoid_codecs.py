"""Labels of sigmoids against the definitions, written naively."""

import math

import numpy as np
import pytest
import torch

from fkd.errors import ConfigError
from fkd.labels.codec_names import check_codec, parse_codec, with_teacher_weights, with_temperature
from fkd.labels.codecs import decode
from fkd.labels.comparison import compare
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import dequantize, quantize
from fkd.labels.sigmoid_codecs import angles, from_angles, is_multi_label, keep_fewer

C = 12


def sigmoids(n=9, num_classes=C, *, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.sigmoid(4 * torch.randn(n, num_classes, generator=generator) + shift)


def naive(p, k):
    """The k largest, lower ids first where equal, and the mean of all others for these."""
    rows = []
    for row in p.tolist():
        kept = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        others = [row[c] for c in range(len(row)) if c not in kept]
        mean = sum(others) / len(others) if others else 0.0
        rows.append([row[c] if c in kept else mean for c in range(len(row))])
    return torch.tensor(rows)


@pytest.mark.parametrize("k", [1, 3, C - 1, C])
def test_the_largest_are_kept_and_the_mean_of_the_rest(k):
    p = sigmoids()
    codec = parse_codec(f"sigmoid:{k}")
    encoded = codec.encode(p)
    assert encoded.ids.shape == (9, k)
    assert encoded.values.shape == (9, k + 1)
    torch.testing.assert_close(decode(codec, encoded, C), naive(p, k), atol=1e-6, rtol=0)
    assert codec.targets(encoded, C).multi_label


def test_all_classes_are_kept():
    p = sigmoids()
    codec = parse_codec("sigmoid")
    encoded = codec.encode(p)
    assert encoded.ids is None
    torch.testing.assert_close(decode(codec, encoded, C), p, atol=1e-6, rtol=0)
    assert codec.targets(encoded, C).multi_label


def test_no_constant_is_nearer_than_the_mean():
    """In the sum of the binary divergences of the classes that were left out."""
    p = sigmoids(seed=3).double()
    codec = parse_codec("sigmoid:4")
    targets = codec.targets(codec.encode(p.float()), C)
    left_out = torch.ones(9, C, dtype=torch.bool).scatter(1, targets.index, False)

    def divergence(rest):
        one = p * (p / rest).log() + (1 - p) * ((1 - p) / (1 - rest)).log()
        return (one * left_out).sum(1)

    mean = targets.tail.double()[:, None]
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert (divergence(mean) < divergence(mean * factor)).all()


@pytest.mark.parametrize(("value_dtype", "most"), [("u16", 2e-7), ("f16", 1e-4), ("f32", 1e-10)])
@pytest.mark.parametrize("shift", [-12.0, 0.0, 12.0])
def test_rounding_moves_labels_hardly_wherever_they_are(value_dtype, most, shift):
    """1,000 classes, also next to 1, where probabilities in u16 would be off by 1e-2 nats."""
    p = sigmoids(20, 1000, shift=shift)
    for name in ("sigmoid", "sigmoid:20"):
        codec = parse_codec(name)
        exact = codec.encode(p)
        rounded = dequantize(quantize(exact.values, value_dtype), value_dtype)
        labels = [codec.targets(Encoded(exact.ids, v), 1000) for v in (exact.values, rounded)]
        report = compare(*labels)
        assert report.mean_kl < most * (10 if name == "sigmoid" else 1)
        assert report.top1_agreement == 1.0


def test_angles_are_those_of_the_definition():
    p = np.array([0.0, 1e-9, 0.25, 0.5, 1.0])
    expected = [2 / math.pi * math.asin(math.sqrt(x)) for x in p]
    np.testing.assert_allclose(angles(p), expected, atol=1e-7)
    np.testing.assert_allclose(from_angles(angles(p)), p, atol=1e-7)
    assert angles(np.array([1.0 + 1e-6, -1e-9])).tolist() == [1.0, 0.0]  # by rounding


@pytest.mark.parametrize("k", [1, 2, 5])
def test_fewer_classes_are_those_of_the_probabilities(k):
    """Labels of sigmoid:6 hold all that sigmoid:k needs, also the mean of its rest."""
    p = sigmoids()
    large, small = parse_codec("sigmoid:6"), parse_codec(f"sigmoid:{k}")
    kept = keep_fewer(large.encode(p), k, C)
    direct = small.encode(p)
    np.testing.assert_array_equal(kept.ids, direct.ids)
    np.testing.assert_allclose(kept.values, direct.values, atol=1e-6)


def test_class_ids_beyond_16_bits():
    p = torch.full((2, 70_000), 0.001)
    p[:, 69_999], p[:, 65_536] = 0.9, 0.8
    codec = parse_codec("sigmoid:2")
    assert codec.encode(p).ids.tolist() == [[69_999, 65_536]] * 2


@pytest.mark.parametrize("name", ["sigmoid*2", "sigmoid:3*2"])
def test_labels_of_several_teachers_are_weighed(name):
    each = torch.stack([sigmoids(seed=1), sigmoids(seed=2)], dim=1)
    codec = with_teacher_weights(parse_codec(name), [1.0, 3.0])
    assert is_multi_label(codec)
    targets = codec.targets(codec.encode(each), C)
    assert targets.multi_label
    k = 3 if ":" in name else C
    expected = 0.25 * naive(each[:, 0], k) + 0.75 * naive(each[:, 1], k)
    torch.testing.assert_close(targets.dense(), expected, atol=1e-6, rtol=0)


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(ConfigError, match=r"codec sigmoid:13 keeps 13 classes .* codec sigmoid"):
        check_codec(parse_codec("sigmoid:13"), C)
    with pytest.raises(ConfigError, match="at least 1 class"):
        parse_codec("sigmoid:0")
    for name in ("sigmoid", "sigmoid:3", "sigmoid:3*2"):
        with pytest.raises(ConfigError, match=r"label again with --teacher\.temperature"):
            with_temperature(parse_codec(name), 2.0)
    assert [is_multi_label(parse_codec(name)) for name in ("full", "ms:5", "logits")] == [False] * 3
