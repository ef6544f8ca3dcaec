"""Probabilities of the kept classes as whole numbers: square roots, with the largest share implied.

A label keeps p_1 >= p_2 >= ... >= p_K; the rest r = 1 - sum p is spread over the other classes. One
of the K + 1 shares need not be stored, since they sum to 1. To leave out the largest is best, whose
rounding would be the coarsest; only p_1 or r can be it. So a crop takes K + 1 numbers:

    which is left out (1: p_1, 0: r), code of the other one of the two, codes of p_2 ... p_K
    code of x = round(levels sqrt(x)), x = (code / levels)^2; code 0 is a small number above 0

Rounding a root by d moves the KL divergence by about 2 d^2 wherever it is done: even steps of the
root share the error out best. A code below 1 / 2 keeps half a bit more than one up to 1 would.
"""

import math

import numpy as np

_ROUNDING = 1e-6  # of a sum of float32
_LOWERED = (0.0, 0.1, 0.2, 0.3, 0.5, 1.5)  # in steps, tried until the order is right
_ZERO = 0.25  # what code 0 stands for, in steps: a class that may occur has no probability of 0


def default_levels(k: int) -> int:
    """Steps between a root of 0 and of 1 that keep the mean KL to the labels below 1e-5 nats.

    The error adds up over the kept classes. With 360 no code is above 255, since no stored share is
    above 1 / 2.
    """
    return round(161 * math.sqrt(max(5, k)))


def encode_roots(p: np.ndarray, levels: int, num_others: int) -> np.ndarray:
    """The numbers of n labels, int64 (n, K + 1).

    Args:
        p: (n, K), descending, the first above 0; sums above 1 are scaled to 1.
        levels: steps between a root of 0 and of 1.
        num_others: classes that share the rest; if there are none, p is scaled to sum 1.

    Top-1 stays: where rounding would put another class in front, all codes are lowered by a part of
    a step.
    """
    total = p.sum(axis=1, dtype=np.float64, keepdims=True)
    p = p / (np.maximum(total, 1.0) if num_others else total)
    rest = np.maximum(1.0 - p.sum(axis=1), 0.0) if num_others else np.zeros(len(p))
    left_out = p[:, 0] >= rest
    shares = np.column_stack([np.where(left_out, rest, p[:, 0]), p[:, 1:]])
    roots = levels * np.sqrt(shares)
    numbers = np.column_stack([left_out, np.zeros_like(roots)]).astype(np.int64)
    wrong = np.ones(len(p), bool)
    for lowered in _LOWERED:
        numbers[wrong, 1:] = np.maximum(np.rint(roots[wrong] - lowered), 0)
        _keep_first_ahead(numbers, p, levels, num_others)
        wrong = _is_wrong(numbers, p, levels, num_others)
        if not wrong.any():
            break
    return numbers


def decode_roots(numbers: np.ndarray, levels: int) -> np.ndarray:
    """Probabilities float32 (..., K) from the numbers (..., K + 1)."""
    codes = numbers[..., 1:].astype(np.float64)
    codes[codes == 0] = _ZERO
    codes /= levels
    p = codes * codes
    first, rest = p[..., 0], 1.0 - p.sum(axis=-1)
    p[..., 0] = np.where(numbers[..., 0] == 1, rest, first)
    return p.astype(np.float32)


def _keep_first_ahead(numbers: np.ndarray, p: np.ndarray, levels: int, num_others: int) -> None:
    """Where p_1 has a code: above that of p_2 and above each of the other classes, if p_1 is."""
    stored = numbers[:, 0] == 0
    given, kept = p[stored], numbers[stored]
    lowest = np.zeros(len(given), np.int64)
    if p.shape[1] > 1:
        lowest = kept[:, 2] + (given[:, 0] > given[:, 1])
    if num_others:
        # p_1 is above r / others as soon as it is above an even split of what p_2 ... p_K leave.
        split = _even_split(given, num_others)
        others = np.floor(levels * np.sqrt(_even_split(decode_roots(kept, levels), num_others)))
        lowest = np.maximum(lowest, np.where(given[:, 0] > split, others.astype(np.int64) + 1, 0))
    numbers[stored, 1] = np.maximum(kept[:, 1], lowest)


def _even_split(p: np.ndarray, num_others: int) -> np.ndarray:
    left: np.ndarray = 1.0 - p[:, 1:].sum(axis=1, dtype=np.float64)
    return left.clip(min=0.0) / (num_others + 1)


def _is_wrong(numbers: np.ndarray, p: np.ndarray, levels: int, num_others: int) -> np.ndarray:
    """Labels that read back with another class in front or a sum above 1."""
    q = decode_roots(numbers, levels)
    wrong: np.ndarray = q.sum(axis=1, dtype=np.float64) > 1.0 + _ROUNDING
    if p.shape[1] > 1:
        wrong |= (q[:, 0] < q[:, 1]) | ((q[:, 0] == q[:, 1]) & (p[:, 0] > p[:, 1]))
    if num_others:
        wrong |= (q[:, 0] < _even_split(q, num_others)) & (p[:, 0] > _even_split(p, num_others))
    return wrong
