"""Labels as square roots: the error they may have, and what they may never change."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fkd.store.roots import decode_roots, default_levels, encode_roots

TEACHERS = {"flat": 1.0, "usual": 3.0, "sharp": 12.0}  # spread of the logits


def softmax_top(num: int, k: int, num_classes: int, spread: float, seed: int = 0) -> np.ndarray:
    """The k highest probabilities of random logits, float32 (num, k), descending."""
    logits = np.random.default_rng(seed).normal(0, spread, (num, num_classes))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    return -np.sort(-p, axis=1)[:, :k].astype(np.float32)


def divergence(p: np.ndarray, q: np.ndarray, num_others: int) -> np.ndarray:
    """KL of labels with these kept probabilities, the rest spread over the others; naively."""
    total = 0.0
    p, q = p.astype(np.float64), q.astype(np.float64)
    if num_others == 0:
        p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    for a, b in zip(p.T, q.T, strict=True):
        total = total + np.where(a > 0, a * np.log(np.maximum(a, 1e-300) / b), 0)
    if num_others:
        a, b = (np.maximum(1 - x.sum(axis=1), 0) / num_others for x in (p, q))
        total = total + np.where(a > 0, num_others * a * np.log(np.maximum(a, 1e-300) / b), 0)
    return total


def read_back(p: np.ndarray, num_others: int) -> np.ndarray:
    levels = default_levels(p.shape[1])
    return decode_roots(encode_roots(p, levels, num_others), levels)


@pytest.mark.parametrize("spread", TEACHERS.values(), ids=TEACHERS)
@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_the_mean_divergence_is_below_1e_5(k, spread):
    p = softmax_top(3000, k, 1000, spread)
    assert divergence(p, read_back(p, 1000 - k), 1000 - k).mean() < 1e-5


@pytest.mark.parametrize("spread", TEACHERS.values(), ids=TEACHERS)
def test_without_a_rest_the_divergence_is_that_of_the_scaled_labels(spread):
    p = softmax_top(3000, 5, 1000, spread)
    assert divergence(p, read_back(p, 0), 0).mean() < 1e-5


def test_no_code_of_ms_5_needs_more_than_8_bits():
    p = np.concatenate([softmax_top(500, 5, 100, spread) for spread in (0.1, 1, 5, 30)])
    edges = np.array([[0.5, 0.5, 0, 0, 0], [0.5, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32)
    for num_others in (0, 95):
        assert encode_roots(np.concatenate([p, edges]), 360, num_others).max() <= 255


descending = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12).map(
    lambda p: np.array([sorted(p, reverse=True)], np.float32)
)


@settings(max_examples=400)
@given(descending.filter(lambda p: p[0, 0] > 1e-6), st.sampled_from([0, 1, 7, 1000]))
def test_order_and_top_1_stay(p, num_others):
    q = read_back(p, num_others)
    assert (q > 0).all()
    assert (np.diff(q) <= 0).all()
    assert q.sum(dtype=np.float64) <= 1 + 1e-6
    first, second = p[0, 0], p[0, 1] if p.shape[1] > 1 else 0
    # Dividing by a sum above 1 may make two neighboring floats equal.
    if first > second * (1 + 1e-6):
        assert p.shape[1] == 1 or q[0, 0] > q[0, 1]
    if num_others:
        tails = [max(0.0, 1 - x.sum(dtype=np.float64)) / num_others for x in (p, q)]
        assert first <= tails[0] * (1 + 1e-5) or q[0, 0] >= tails[1] * (1 - 1e-5)


@settings(max_examples=200)
@given(descending.filter(lambda p: p[0, 0] > 1e-3), st.sampled_from([0, 7, 1000]))
def test_coding_what_was_decoded_changes_nothing(p, num_others):
    """So a store that went compact, plain and compact again has the same labels.

    But where the first share and the rest are within a step of each other: rounding may turn round
    which of them is left out, and then the other one is rounded.
    """
    total = p.sum(dtype=np.float64)
    first, rest = p[0, 0] / max(total, 1.0), max(1.0 - total, 0.0)
    assume(not num_others or abs(first - rest) > 0.01)
    once = read_back(p, num_others)
    np.testing.assert_allclose(read_back(once, num_others), once, atol=3e-7)


@pytest.mark.parametrize("num_others", [0, 995])
def test_a_certain_teacher_stays_certain(num_others):
    p = np.array([[1, 0, 0, 0, 0]], np.float32)
    q = read_back(p, num_others)
    assert q[0, 0] > 0.99999
    assert divergence(p, q, num_others) < 1e-5


def test_equal_probabilities_stay_in_order():
    for k in (2, 3, 5, 10):
        for num_others in (0, 1, 1000):
            for share in (1 / k, 1 / (k + num_others)):
                q = read_back(np.full((1, k), share, np.float32), num_others)
                assert (np.diff(q) <= 0).all()
                assert abs(q - share).max() < 0.02
