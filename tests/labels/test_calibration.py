"""Verdicts and calibrated labels, against the rule written naively."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fkd.errors import ConfigError
from fkd.labels.calibration import (
    BINS,
    CalibrationConfig,
    Thresholds,
    Verdict,
    calibrate,
    calibrates,
    confidences,
    count,
    judge,
    thresholds,
)
from fkd.labels.codecs import Full, MarginalRenorm, MarginalSmoothing
from fkd.labels.targets import SoftTargets

CODECS = [Full(), MarginalSmoothing(3), MarginalRenorm(2)]


def make_targets(codec, num_crops=12, num_classes=7):
    logits = torch.randn(num_crops, num_classes, generator=torch.Generator().manual_seed(0))
    return codec.targets(codec.encode(torch.softmax(3 * logits, 1)), num_classes)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_confidence_is_that_of_the_dense_label(codec):
    targets = make_targets(codec)
    dense, truth = targets.dense(), torch.arange(12) % 7
    torch.testing.assert_close(confidences(targets), dense.amax(1))
    torch.testing.assert_close(confidences(targets, truth), dense[torch.arange(12), truth])


def test_a_class_that_two_teachers_name_counts_once_with_both_weights():
    index = torch.tensor([[4, 1, 4, 2]])
    weight = torch.tensor([[0.3, 0.1, 0.25, 0.2]])
    targets = SoftTargets(index, weight, torch.tensor([0.03]), 6)
    assert confidences(targets).item() == pytest.approx(targets.dense().max().item())
    assert confidences(targets, torch.tensor([4])).item() == pytest.approx(0.58)


@given(
    confidence=st.floats(0, 1, width=32),
    low=st.floats(0, 0.375, width=32),
    mid=st.floats(0.5, 0.6875, width=32),
    high=st.floats(0.75, 1, width=32),
)
def test_the_rule(confidence, low, mid, high):
    if confidence < low or confidence > high:
        expected = Verdict.LEAVE_OUT
    elif confidence < mid:
        expected = Verdict.CALIBRATE
    else:
        expected = Verdict.KEEP
    assert judge(torch.tensor([confidence]), Thresholds(low, mid, high)).tolist() == [expected]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_calibrated_labels_are_the_smoothed_true_class_and_others_stay(codec):
    targets, truth = make_targets(codec), torch.arange(12) % 7
    chosen = torch.arange(12) % 3 == 0
    expected = targets.dense()
    expected[chosen] = 0.1 / 6
    expected[chosen, truth[chosen]] = 0.9
    calibrated = calibrate(targets, chosen, truth, 0.1)
    torch.testing.assert_close(calibrated.dense(), expected)
    assert targets.index is None or calibrated.index.shape[1] == targets.index.shape[1] + 1


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=60, unique_by=lambda v: int(v * BINS)),
    shares=st.tuples(*[st.floats(0.01, 0.99)] * 3),
)
def test_shares_part_the_crops_as_closely_as_can_be(values, shares):
    low, mid, high = sorted(shares)
    if not low < mid < high:
        return
    values = torch.tensor(values, dtype=torch.float64)
    config = CalibrationConfig(low=low, mid=mid, high=high, shares=True)
    limits = thresholds(config, count(values))
    for found, share in (
        ((values < limits.low).double().mean(), low),
        ((values < limits.mid).double().mean(), mid),
        ((values > limits.high).double().mean(), 1 - high),
    ):
        assert share - 1 / len(values) - 1e-9 <= found <= share + 1e-9


def test_a_share_of_zero_or_one_concerns_no_crop():
    values = torch.tensor([0.0, 0.5, 1.0])
    limits = thresholds(CalibrationConfig(mid=0.4, shares=True), count(values))
    assert judge(values, limits).tolist() == [Verdict.CALIBRATE, Verdict.KEEP, Verdict.KEEP]


def test_by_default_all_labels_are_trusted():
    assert not calibrates(CalibrationConfig())
    limits = thresholds(CalibrationConfig(), np.zeros(BINS, np.int64))
    assert not judge(torch.tensor([0.0, 0.3, 1.0]), limits).any()
    assert calibrates(CalibrationConfig(low=0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": -0.1}, "calibration.low must lie in"),
        ({"high": 1.1}, "calibration.high must lie in"),
        ({"low": 0.5, "high": 0.5}, "below calibration.high"),
        ({"mid": 0.9, "high": 0.5}, "below calibration.high"),
        ({"low": 0.3, "mid": 0.2}, "calibrates nothing"),
        ({"smoothing": 1.0}, "calibration.smoothing"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        CalibrationConfig(**options)
