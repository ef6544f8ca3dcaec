"""Rows of embeddings as whole numbers with a scale: never off by more than half of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fkd.labels.comparison import compare, compare_embeddings
from fkd.labels.quantization import LARGEST_VALUE, dequantize_rows, quantize_rows
from fkd.labels.targets import SoftTargets

LARGEST = LARGEST_VALUE["i8"]
SMALLEST = 64 * 2.0**-149  # half of the smallest scale
numbers = st.floats(-LARGEST, LARGEST, width=32)
rows = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=numbers)


def stored_and_read(values):
    stored, scale = quantize_rows(values)
    return dequantize_rows(stored, scale), stored, scale


@settings(max_examples=300, deadline=None)
@given(rows)
def test_no_value_is_off_by_more_than_half_the_scale(values):
    read, stored, scale = stored_and_read(values)
    assert stored.dtype == np.int8
    assert scale.dtype == read.dtype == np.float32
    assert np.isfinite(read).all()
    off = np.abs(read.astype(np.float64) - values).max(axis=1)
    # At the very end of the range of float32, 127 times the scale would be infinite.
    sizes = np.abs(values).max(axis=1).astype(np.float64)
    assert (off <= np.maximum(0.5 * scale, 2.0**-16 * sizes) + SMALLEST).all()
    ordinary = sizes >= 1e-35
    assert (scale[ordinary] <= 1.0001 * sizes[ordinary] / 127).all()


@settings(max_examples=200, deadline=None)
@given(rows)
def test_what_was_read_is_stored_again_as_the_same_numbers(values):
    values[:, 0] = np.where(np.abs(values[:, 0]) < 1e-37, 1e-37, values[:, 0])
    read, stored, scale = stored_and_read(values)
    again, same_scale = quantize_rows(read)
    np.testing.assert_array_equal(again, stored)
    np.testing.assert_array_equal(same_scale, scale)
    np.testing.assert_array_equal(dequantize_rows(again, same_scale), read)


@pytest.mark.parametrize(
    "row", [[0.0, 0.0], [1e-45, 0.0], [3e-40, -1e-41], [LARGEST, -LARGEST], [LARGEST, 1e-38]]
)
def test_the_ends_of_the_range(row):
    read, _, scale = stored_and_read(np.array([row], np.float32))
    assert np.abs(read - row).max() <= max(0.5 * scale[0], 2.0**-16 * max(row)) + SMALLEST


def embeddings(kind: str, dims: int) -> torch.Tensor:
    """256 rows as self-supervised teachers give them."""
    rows = torch.randn(256, dims, generator=torch.Generator().manual_seed(dims))
    if kind == "normalized":  # MoCo V2, SwAV
        rows = torch.nn.functional.normalize(rows, dim=1)
    if kind == "pooled":  # after a ReLU: not negative, many small
        rows = rows.relu()
    if kind == "one spike":  # some dimensions of vision transformers
        rows[:, 3] = 11.0
    return rows


@pytest.mark.parametrize("kind", ["normalized", "pooled", "plain", "one spike"])
@pytest.mark.parametrize("dims", [128, 2048])
def test_embeddings_keep_their_direction_and_their_softmax(kind, dims):
    rows = embeddings(kind, dims)
    read = torch.from_numpy(stored_and_read(rows.numpy())[0])
    assert compare_embeddings(rows, read).least_cosine > 0.999
    for temperature in (1.0, 0.2):
        if kind in ("plain", "one spike") and temperature < 1.0:
            continue  # sizes of 20 and 55 after division: beyond the bound of the next test
        labels = [SoftTargets.full(torch.softmax(z / temperature, 1)) for z in (rows, read)]
        assert compare(*labels).max_kl < 1e-3


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, (2, 30), elements=st.floats(-11, 11, width=32)))
def test_the_softmax_of_sizes_up_to_11_moves_by_less_than_one_in_a_thousand(values):
    read, _, scale = stored_and_read(values)
    labels = [SoftTargets.full(torch.softmax(torch.from_numpy(z), 1)) for z in (values, read)]
    assert compare(*labels).max_kl <= scale.max() ** 2 / 8 + 1e-9 < 1e-3


def test_many_rows_are_quantized_a_few_at_a_time(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
    whole = quantize_rows(rows)
    monkeypatch.setattr("fkd.labels.quantization._NUMBERS_AT_ONCE", 20)
    for all_at_once, few_at_a_time in zip(whole, quantize_rows(rows), strict=True):
        np.testing.assert_array_equal(few_at_a_time, all_at_once)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, -1e-45, LARGEST])
def test_scales_that_are_never_written_are_refused(scale):
    with pytest.raises(ValueError, match="the scale of a label is negative, NaN or too large"):
        dequantize_rows(np.zeros((1, 2, 3), np.int8), np.array([[0.5, scale]], np.float32))


def test_a_number_that_is_never_written_is_refused():
    with pytest.raises(ValueError, match="below -127"):
        dequantize_rows(np.array([[3, -128]], np.int8), np.ones(1, np.float32))
