"""The codecs against the paper's equations, written out in float64 loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fkd.errors import ConfigError
from fkd.labels.codec_names import check_codec, parse_codec
from fkd.labels.codecs import (
    Full,
    Hard,
    Logits,
    MarginalRenorm,
    MarginalSmoothing,
    Smoothing,
    TopKLogits,
    decode,
    top_k,
)
from fkd.labels.encoded import Encoded
from fkd.labels.quantization import dequantize, quantize

C = 12
PROBABILITY_CODECS = [Full(), Hard(), Smoothing(), *(
    codec(k) for codec in (MarginalSmoothing, MarginalRenorm) for k in (1, 2, 5, C)
)]  # fmt: skip


def labels(count=20, classes=C, sharpness=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(count, classes, generator=generator) * sharpness, 1)


def naive(codec, p):
    """Eq. 3-7 for one label p, a list of C floats."""
    order = sorted(range(len(p)), key=lambda c: (-p[c], c))
    if isinstance(codec, Full):
        return [pc / sum(p) for pc in p]
    if isinstance(codec, Hard):
        return [1.0 if c == order[0] else 0.0 for c in range(len(p))]
    kept = order[: codec.k]
    mass = sum(p[c] for c in kept)
    if isinstance(codec, MarginalRenorm) or len(kept) == len(p):
        return [p[c] / mass if c in kept else 0.0 for c in range(len(p))]
    tail = (1 - mass) / (len(p) - len(kept))
    return [p[c] if c in kept else tail for c in range(len(p))]


@pytest.mark.parametrize("codec", PROBABILITY_CODECS, ids=lambda c: c.name)
def test_decoded_labels_are_the_papers(codec):
    p = labels()
    q = decode(codec, codec.encode(p), C)
    expected = np.array([naive(codec, row) for row in p.double().tolist()])
    np.testing.assert_allclose(q.numpy(), expected, atol=2e-7)


@pytest.mark.parametrize("codec", PROBABILITY_CODECS, ids=lambda c: c.name)
@pytest.mark.parametrize("value_dtype", ["u16", "f16", "f32"])
def test_labels_sum_to_one_after_storage(codec, value_dtype):
    """Hazard 13: rounded values can sum above 1, which must not give a negative tail."""
    for sharpness in (0.1, 2.0, 8.0, 60.0):
        encoded = codec.encode(labels(sharpness=sharpness))
        if encoded.values is not None:
            stored = quantize(encoded.values, value_dtype)
            encoded = Encoded(encoded.ids, dequantize(stored, value_dtype))
        q = decode(codec, encoded, C)
        assert q.min() >= 0.0
        torch.testing.assert_close(q.sum(1), torch.ones(len(q)), atol=2e-6, rtol=0)


def test_smoothing_is_marginal_smoothing_of_one_class():
    p = labels()
    assert torch.equal(
        decode(Smoothing(), Smoothing().encode(p), C),
        decode(MarginalSmoothing(1), MarginalSmoothing(1).encode(p), C),
    )


def test_keeping_every_class_is_the_full_label():
    p = labels()
    for codec in (MarginalSmoothing(C), MarginalRenorm(C)):
        torch.testing.assert_close(decode(codec, codec.encode(p), C), p)


def test_marginal_codecs_store_the_same_and_differ_in_decoding():
    ms, mr = MarginalSmoothing(5).encode(labels()), MarginalRenorm(5).encode(labels())
    assert np.array_equal(ms.ids, mr.ids)
    assert np.array_equal(ms.values, mr.values)


@pytest.mark.parametrize("codec", [MarginalSmoothing(3), MarginalRenorm(3), MarginalSmoothing(C)])
def test_a_label_without_mass_becomes_uniform(codec):
    encoded = Encoded(np.arange(codec.k)[None], np.zeros((1, codec.k), np.float32))
    torch.testing.assert_close(decode(codec, encoded, C), torch.full((1, C), 1 / C))


def test_logits_wait_for_their_temperature():
    z = torch.randn(4, 7)
    encoded = Logits().encode(z)
    torch.testing.assert_close(decode(Logits(), encoded, 7), z.softmax(1))
    torch.testing.assert_close(decode(Logits(temperature=4.0), encoded, 7), (z / 4).softmax(1))


def test_ties_go_to_the_lower_class_id():
    """Hazard 26: the order of equal probabilities must not depend on a sorting library."""
    p = torch.full((3, 40), 1 / 40)
    assert top_k(p, 5)[0].tolist() == [[0, 1, 2, 3, 4]] * 3
    p[:, [30, 7]] = 0.4
    assert top_k(p, 3)[0][0].tolist() == [7, 30, 0]


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30), st.data())
@settings(max_examples=200, deadline=None)
def test_top_k_sorts_by_probability_then_id(values, data):
    k = data.draw(st.integers(1, len(values)))
    expected = sorted(range(len(values)), key=lambda c: (-values[c], c))[:k]
    assert top_k(torch.tensor([values]), k)[0][0].tolist() == expected


def two_byte_edges():
    """Where rounding changes from one of the 65,536 numbers to the next: the largest errors.

    Within the probabilities that become one number, the error grows towards both ends, also
    relative to p.
    """
    x = (np.arange(65535) + 0.5) / 65535
    return 17 * x**2 / (16 * x + 1)


def test_two_byte_values_stay_within_their_promise():
    """What docs/format.md says of `u16`, at both sides of every edge: so for every p."""
    for side in (1 - 1e-12, 1 + 1e-12):
        p = two_byte_edges() * side
        error = np.abs(dequantize(quantize(p, "u16"), "u16").astype(np.float64) - p)
        assert error.max() <= 8.2e-6
        for least, share in ((1e-6, 0.062), (1e-5, 0.02), (1e-4, 0.0061), (1e-3, 0.0018)):
            assert (error / p)[p >= least].max() < share
        assert (error / np.sqrt(p))[p >= 1e-6].max() < 6.4e-5


def test_the_smallest_two_byte_value_is_reached_from_1e_9_on():
    assert quantize(np.array([0.0, 9.8e-10, 1e-9]), "u16").tolist() == [0, 0, 1]
    assert dequantize(np.array([1], np.uint16), "u16")[0] == pytest.approx(4.0e-9, rel=0.02)


def test_two_byte_values_are_ordered_and_round_trip():
    stored = np.arange(65536, dtype=np.uint16)
    values = dequantize(stored, "u16")
    assert (np.diff(values) > 0).all()
    assert values[0] == 0.0
    assert values[-1] == 1.0
    np.testing.assert_array_equal(quantize(values, "u16"), stored)


def test_two_byte_values_move_labels_less_than_half_floats():
    """Mean KL to the fp32 label below 1e-6 for flat, ordinary and very sharp teachers."""
    codec = MarginalSmoothing(5)
    for sharpness in (1.0, 3.0, 8.0):
        encoded = codec.encode(labels(500, 1000, sharpness))
        exact = decode(codec, encoded, 1000).double()
        moved = {}
        for value_dtype in ("u16", "f16"):
            value = dequantize(quantize(encoded.values, value_dtype), value_dtype)
            q = decode(codec, Encoded(encoded.ids, value), 1000).double()
            kl = exact * (exact.clamp_min(1e-12).log() - q.clamp_min(1e-12).log())
            moved[value_dtype] = kl.sum(1).mean().item()
        assert moved["u16"] < 1e-6
        assert moved["u16"] < moved["f16"]


@pytest.mark.parametrize("name", ["full", "hard", "smoothing", "ms:5", "mr:12", "logits"])
def test_a_codec_prints_the_name_it_is_parsed_from(name):
    assert parse_codec(name).name == name


@pytest.mark.parametrize("name", ["ms", "ms:", "ms:0", "ms:-1", "ms:x", "top5", "", "full:3"])
def test_unknown_codecs_are_refused(name):
    with pytest.raises(ConfigError):
        parse_codec(name)


def test_more_kept_classes_than_classes_are_refused():
    check_codec(MarginalSmoothing(10), 10)
    with pytest.raises(ConfigError, match="keeps 11 classes but there are only 10"):
        check_codec(MarginalSmoothing(11), 10)


@pytest.mark.parametrize("k", [1, 3, C])
def test_a_cell_of_a_label_map_has_zeros_for_other_classes(k):
    z = torch.randn(20, C, generator=torch.Generator().manual_seed(3)) * 4
    codec = TopKLogits(k)
    encoded = codec.encode(z)
    filled = np.zeros((20, C))
    for row, expected in zip(z.double().tolist(), filled, strict=True):
        for c in sorted(range(C), key=lambda c: (-row[c], c))[:k]:
            expected[c] = row[c]
    q = np.exp(filled) / np.exp(filled).sum(1, keepdims=True)
    np.testing.assert_allclose(decode(codec, encoded, C).numpy(), q, atol=2e-7)


def test_cells_may_have_no_logit_above_zero_or_very_large_ones():
    q = decode(TopKLogits(2), TopKLogits(2).encode(torch.tensor([[-3.0, -1, -2], [900, 1, 0]])), 3)
    torch.testing.assert_close(q[0], torch.softmax(torch.tensor([0.0, -1, -2]), 0))
    torch.testing.assert_close(q[1], torch.tensor([1.0, 0, 0]))


@given(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=9), st.data())
def test_top_k_sorts_logits_of_either_sign(values, data):
    k = data.draw(st.integers(1, len(values)))
    expected = sorted(range(len(values)), key=lambda c: (-values[c], c))[:k]
    assert top_k(torch.tensor([values]), k)[0][0].tolist() == expected
