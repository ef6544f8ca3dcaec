"""What is chosen when labels are decoded: their temperature, and the weights of their teachers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fkd.errors import ConfigError
from fkd.labels.codec_names import (
    PerTeacher,
    can_read,
    check_codec,
    parse_codec,
    with_teacher_weights,
    with_temperature,
)
from fkd.labels.codecs import Full, Logits, MarginalSmoothing, TopKLogProbs, decode
from fkd.labels.encoded import Encoded
from fkd.labels.losses import soft_cross_entropy
from fkd.labels.quantization import dequantize, quantize
from fkd.labels.sampled import Sampled, encode_labels

C = 12


def logits_of(count=20, sharpness=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, C, generator=generator) * sharpness


def naive_tempered(z, k, t):
    """Softmax at t of the k largest logits and of C - k equal ones with the mass of the rest."""
    log_p = z.double() - torch.logsumexp(z.double(), 0)
    order = torch.argsort(log_p, descending=True, stable=True)
    rest = torch.logsumexp(log_p[order[k:]], 0) - np.log(C - k)
    flat = torch.full((C,), float(rest), dtype=torch.float64)
    flat[order[:k]] = log_p[order[:k]]
    return torch.softmax(flat / t, 0)


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0, 20.0])
@pytest.mark.parametrize("k", [1, 3, C - 1])
def test_a_temperature_chosen_afterwards_is_that_of_the_logits(k, t):
    z = logits_of()
    codec = TopKLogProbs(k)
    encoded = codec.encode(torch.softmax(z, 1))
    q = decode(with_temperature(codec, t), encoded, C).double()
    expected = torch.stack([naive_tempered(row, k, t) for row in z])
    torch.testing.assert_close(q, expected, atol=3e-6, rtol=0)


def test_at_temperature_1_it_is_marginal_smoothing():
    p = torch.softmax(logits_of(), 1)
    ms, ours = MarginalSmoothing(5), TopKLogProbs(5)
    torch.testing.assert_close(decode(ours, ours.encode(p), C), decode(ms, ms.encode(p), C))


@pytest.mark.parametrize("t", [1.0, 3.0])
def test_keeping_every_class_any_temperature_is_exact(t):
    z = logits_of()
    codec = with_temperature(TopKLogProbs(C), t)
    q = decode(codec, codec.encode(torch.softmax(z, 1)), C)
    torch.testing.assert_close(q, torch.softmax(z / t, 1), atol=2e-6, rtol=0)


@given(st.floats(0.01, 80.0), st.integers(1, C), st.sampled_from(["f16", "f32"]))
@settings(max_examples=60, deadline=None)
def test_stored_values_decode_to_labels(sharpness, k, value_dtype):
    """Also where the rest has no probability left, whose logarithm no half float holds."""
    codec = TopKLogProbs(k)
    encoded = codec.encode(torch.softmax(logits_of(6, sharpness), 1))
    stored = dequantize(quantize(encoded.values, value_dtype), value_dtype)
    assert np.isfinite(stored).all()
    for t in (1.0, 4.0):
        q = decode(with_temperature(codec, t), Encoded(encoded.ids, stored), C)
        assert q.min() >= 0.0
        torch.testing.assert_close(q.sum(1), torch.ones(6), atol=2e-6, rtol=0)


def test_labels_without_logits_have_no_other_temperature():
    assert with_temperature(MarginalSmoothing(5), 1.0) == MarginalSmoothing(5)
    assert with_temperature(Logits(), 2.0) == Logits(temperature=2.0)
    assert with_temperature(PerTeacher(TopKLogProbs(3), 2), 2.0).codec == TopKLogProbs(3, 2.0)
    with pytest.raises(ConfigError, match="ms:5 labels is fixed"):
        with_temperature(MarginalSmoothing(5), 2.0)
    with pytest.raises(ConfigError, match="label_temperature must be above 0"):
        with_temperature(Logits(), 0.0)


CODECS = ("full", "hard", "smoothing", "ms:3", "mr:3", "logits:3")


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("weights", [None, (3.0, 1.0, 0.0)])
def test_teachers_side_by_side_decode_to_their_weighted_mean(name, weights):
    outputs = torch.softmax(torch.stack([logits_of(seed=s) for s in range(3)], 1), 2)
    one, codec = parse_codec(name), with_teacher_weights(parse_codec(f"{name}*3"), weights)
    encoded = codec.encode(outputs)
    for part, width in (
        (encoded.ids, codec.num_ids(C)),
        (encoded.values, codec.num_values(C)),
    ):
        assert (0 if part is None else part.shape[1]) == width
    targets = codec.targets(encoded, C)
    labels = [decode(one, one.encode(outputs[:, t]), C) for t in range(3)]
    shares = [w / sum(weights or (1, 1, 1)) for w in weights or (1, 1, 1)]
    expected = sum(share * label for share, label in zip(shares, labels, strict=True))
    torch.testing.assert_close(targets.dense(), expected)
    z = logits_of(seed=9)
    dense = -(expected * torch.log_softmax(z, 1)).sum(1)
    torch.testing.assert_close(soft_cross_entropy(z, targets), dense, rtol=1e-5, atol=1e-6)


def test_one_codec_of_several_teachers_is_spelled_with_a_star():
    codec = parse_codec("ms:5*3")
    assert codec == PerTeacher(MarginalSmoothing(5), 3)
    assert (codec.name, codec.num_ids(100), codec.num_values(100)) == ("ms:5*3", 15, 15)
    check_codec(parse_codec("ms:5*3"), 5)  # 15 ids of 5 classes, 5 of each teacher
    with pytest.raises(ConfigError, match="ms:6 keeps 6 classes"):
        check_codec(parse_codec("ms:6*3"), 5)
    for spelled in ("ms:5*1", "ms:5*", "*2", "ms:5*x"):
        with pytest.raises(ConfigError):
            parse_codec(spelled)


def test_weights_must_fit_the_teachers():
    codec = parse_codec("full*2")
    assert with_teacher_weights(codec, None) is codec
    for weights, message in (
        ([1.0], "are of 2 teachers, got 1 weights"),
        ([1.0, -1.0], "at least 0 and not all 0"),
        ([0.0, 0.0], "at least 0 and not all 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            with_teacher_weights(codec, weights)
    with pytest.raises(ConfigError, match="labels of codec full are of one teacher"):
        with_teacher_weights(Full(), [1.0, 2.0])


@pytest.mark.parametrize("spelling", ["top:5*2", "top:1*3", "logits*2"])
def test_teachers_side_by_side_have_probabilities(spelling):
    """Logits of several teachers have no mean, and a map has one teacher."""
    with pytest.raises(ConfigError, match="no form of several teachers"):
        parse_codec(spelling)


@pytest.mark.parametrize("k", ["9" * 5000, "\u0665", "1e3", "+5", " 5", "5 ", "-1", ""])
@pytest.mark.parametrize("form", ["ms:{}", "logits:{}", "ms:5*{}"])
def test_odd_numbers_in_a_spelling_are_one_short_sentence(form, k):
    with pytest.raises(ConfigError) as caught:
        parse_codec(form.format(k))
    assert len(str(caught.value)) < 400


NAMES = [
    "full",
    "hard",
    "smoothing",
    "ms:1",
    "ms:3",
    "ms:4",
    "ms:6",
    "mr:3",
    "mr:6",
    "sampled:3",
    "logits",
    "logits:2",
    "logits:3",
    "sigmoid",
    "sigmoid:2",
    "sigmoid:3",
    "full*2",
    "hard*2",
    "ms:3*2",
    "mr:3*2",
    "logits:3*2",
    "sigmoid:3*2",
]


def labels_of(codec):
    """Labels of the same outputs by any codec, with one random number for each."""
    z = torch.stack([logits_of(seed=seed) for seed in range(2)], dim=1)
    z = z if isinstance(codec, PerTeacher) else z[:, 0]
    p = {"logits": z, "sigmoids": torch.sigmoid(z)}.get(codec.encodes, torch.softmax(z, dim=-1))
    return encode_labels(codec, p, np.linspace(0, 0.99, len(z)))


@pytest.mark.parametrize("stored", NAMES)
def test_labels_are_read_by_another_codec_only_as_it_would_have_made_them(stored):
    """Numbers that mean something else would be decoded without any complaint."""
    stored = parse_codec(stored)
    readers = [parse_codec(name) for name in NAMES if can_read(parse_codec(name), stored)]
    assert stored in readers
    for codec in readers:
        # A sampled label is decoded as mr:K, and another one's classes cannot be drawn again.
        own = stored if Sampled in map(type, (codec, stored)) else codec
        found = decode(codec, labels_of(stored), C)
        if own == stored != codec:
            own = parse_codec(f"mr:{stored.k}")
            expected = decode(own, labels_of(stored), C)
        else:
            expected = decode(own, labels_of(own), C)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_which_other_codecs_read_labels():
    readers = {
        stored: [n for n in NAMES if n != stored and can_read(parse_codec(n), parse_codec(stored))]
        for stored in NAMES
    }
    assert {stored: " ".join(names) for stored, names in readers.items() if names} == {
        "smoothing": "hard ms:1",
        "ms:1": "hard smoothing",
        "ms:3": "hard mr:3 sampled:3",
        "ms:4": "hard",
        "ms:6": "hard mr:6",
        "mr:3": "hard sampled:3",
        "mr:6": "hard",
        "sampled:3": "mr:3",
        "logits:2": "hard",
        "logits:3": "hard",
        "ms:3*2": "hard*2 mr:3*2",
        "mr:3*2": "hard*2",
        "logits:3*2": "hard*2",
    }
