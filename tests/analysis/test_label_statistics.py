"""Numbers of labels: by hand, and as torchmetrics has them."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from fkd.analysis.label_statistics import (
    NUM_BINS,
    accuracy_of,
    compare_all,
    label_statistics,
)

PROBABILITIES = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.1, 0.2, 0.7, 0]])


def random_labels(n=400, num_classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(n, num_classes, generator=generator), 1)


def test_entropy_and_confidence_by_hand():
    found = label_statistics(PROBABILITIES, torch.tensor([0, -1, -1, 1]), num_kept=2)
    last = -(0.1 * math.log(0.1) + 0.2 * math.log(0.2) + 0.7 * math.log(0.7))
    assert found.entropy == pytest.approx((0 + math.log(4) + math.log(2) + last) / 4, abs=1e-6)
    assert found.entropy_quantiles[2] == pytest.approx((math.log(2) + last) / 2, abs=1e-6)
    assert found.confidence == pytest.approx((1 + 0.25 + 0.5 + 0.7) / 4)
    assert found.kept == pytest.approx((1 + 0.5 + 1 + 0.9) / 4)
    assert sum(found.entropy_histogram) == pytest.approx(1.0)
    assert found.entropy_histogram[0] == found.entropy_histogram[-1] == 0.25  # from 0 to log C


def test_accuracy_and_calibration_by_hand():
    found = label_statistics(PROBABILITIES, torch.tensor([0, -1, -1, 1]), num_kept=2)
    assert (found.num, found.num_known, found.accuracy) == (4, 2, 0.5)
    assert found.calibration_error == pytest.approx((abs(1 - 1) + abs(0.7 - 0)) / 2)
    assert [(b.num, round(b.confidence, 6), b.accuracy) for b in found.bins] == [
        (1, 0.7, 0.0),
        (1, 1.0, 1.0),
    ]


def test_unknown_classes_give_no_accuracy():
    found = label_statistics(PROBABILITIES, torch.full((4,), -1), num_kept=9)
    assert (found.accuracy, found.calibration_error, found.bins) == (None, None, ())
    assert found.kept == pytest.approx(1.0)
    assert accuracy_of(PROBABILITIES, torch.full((4,), -1)) is None


def test_the_calibration_error_is_that_of_torchmetrics():
    labels = random_labels()
    truth = torch.randint(0, 7, (len(labels),), generator=torch.Generator().manual_seed(1))
    expected = multiclass_calibration_error(labels, truth, num_classes=7, n_bins=NUM_BINS)
    found = label_statistics(labels, truth, 5)
    assert found.calibration_error == pytest.approx(float(expected), abs=1e-6)
    assert sum(b.num for b in found.bins) == len(labels)


def test_agreement_is_the_naive_one():
    p, q = random_labels(700, seed=2).double(), random_labels(700, seed=3).double()
    (_, found), (back, _) = compare_all([p, q], np.ones((2, 2), bool))
    kl = sum(
        a * math.log(a / b)
        for row, other in zip(p.tolist(), q.tolist(), strict=True)
        for a, b in zip(row, other, strict=True)
    )
    assert found.mean_kl == pytest.approx(kl / 700, rel=1e-6)
    same = [a.index(max(a)) == b.index(max(b)) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert found.top1_agreement == back.top1_agreement == pytest.approx(sum(same) / 700)
    assert back.mean_kl != pytest.approx(found.mean_kl, rel=1e-3)


def test_what_cannot_be_compared_is_left_open():
    labels = [random_labels(10), random_labels(10, seed=1)]
    found = compare_all(labels, np.eye(2, dtype=bool))
    assert found[0][1] is found[1][0] is None
    assert found[0][0].top1_agreement == 1.0
    assert found[0][0].mean_kl == pytest.approx(0.0, abs=1e-9)
