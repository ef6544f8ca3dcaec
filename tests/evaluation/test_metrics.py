"""Metrics against their equations, written naively."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from fkd.evaluation.metrics import (
    Predictions,
    calibration_error,
    compare_outputs,
    count_by_class,
    predict,
)


def naive_calibration_error(confidence, right) -> float:
    """Guo et al., Eq. 3, with 15 bins; the last one holds 1, too."""
    bins: dict[int, list[int]] = {}
    for i, value in enumerate(confidence):
        bins.setdefault(min(int(value * 15), 14), []).append(i)
    total = 0.0
    for members in bins.values():
        accuracy = sum(right[i] for i in members) / len(members)
        mean = sum(confidence[i] for i in members) / len(members)
        total += len(members) / len(confidence) * abs(accuracy - mean)
    return total


def test_an_image_may_have_several_right_classes_or_none():
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2, -3]]).repeat(5, 1)
    truth = torch.tensor([[0, -1], [6, 4], [6, 5], [2, 0], [-1, -1]])
    found = predict(logits, truth)
    assert found.predicted.tolist() == [0] * 5
    assert found.top1.tolist() == [True, False, False, True, False]
    assert found.top5.tolist() == [True, True, False, True, False]
    expected = math.exp(3) / sum(math.exp(3 - i) for i in range(7))
    assert found.confidence.tolist() == pytest.approx([expected] * 5, rel=1e-6)


def test_fewer_than_five_classes_are_all_among_the_first_five():
    found = predict(torch.tensor([[0.0, 1.0]]), torch.tensor([[0]]))
    assert (found.top1.tolist(), found.top5.tolist()) == ([False], [True])


def test_images_without_classes_are_never_right():
    found = predict(torch.zeros(2, 3), torch.empty(2, 0, dtype=torch.int64))
    assert not found.top1.any()
    assert not found.top5.any()


def test_batches_are_joined_in_their_order():
    parts = [predict(torch.eye(3)[[i]], torch.tensor([[1]])) for i in range(3)]
    whole = Predictions.join(parts)
    assert whole.predicted.tolist() == [0, 1, 2]
    assert whole.top1.tolist() == [False, True, False]


def test_calibration_error_by_hand():
    """Two bins: (0.8 + 0.82) / 2 against 1/2, and (0.5 + 0.49 + 0.51) / 3 against 1/3."""
    confidence = torch.tensor([0.81, 0.83, 0.49, 0.48, 0.5])
    right = torch.tensor([True, False, False, False, True])
    by_hand = 2 / 5 * abs(0.82 - 0.5) + 3 / 5 * abs(0.49 - 1 / 3)
    assert calibration_error(confidence, right) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_its_equation(seed):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(200, generator=generator)
    right = torch.rand(200, generator=generator) < confidence**2
    expected = naive_calibration_error(confidence.tolist(), right.tolist())
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-6)


def test_a_confidence_of_one_is_in_the_last_bin():
    confidence, right = torch.tensor([1.0, 0.95]), torch.tensor([True, False])
    assert calibration_error(confidence, right) == pytest.approx(abs(0.5 - 0.975), abs=1e-6)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) < 1e-6


def test_accuracy_by_class_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (100,), generator=generator)
    predicted = torch.randint(0, 4, (100,), generator=generator)
    counts, right = count_by_class(labels[:, None], predicted == labels, 5)
    expected = multiclass_accuracy(predicted, labels, num_classes=5, average=None)
    assert counts.tolist() == [int((labels == c).sum()) for c in range(5)]
    assert (right[:4] / counts[:4]).tolist() == pytest.approx(expected[:4].tolist())


def test_an_image_of_two_classes_counts_for_both():
    truth = torch.tensor([[0, 2], [2, -1], [1, -1]])
    counts, right = count_by_class(truth, torch.tensor([True, False, True]), 3)
    assert (counts.tolist(), right.tolist()) == ([1, 1, 2], [1, 1, 1])


def test_divergence_is_that_of_its_equation():
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64) * 3
    found = compare_outputs(teacher, student)
    for i in range(6):
        p = [math.exp(v) for v in teacher[i].tolist()]
        q = [math.exp(v) for v in student[i].tolist()]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert float(found.divergence[i]) == pytest.approx(expected, rel=1e-9)
        assert bool(found.agree[i]) == (p.index(max(p)) == q.index(max(q)))
    same = compare_outputs(teacher, teacher + 5.0)
    assert same.agree.all()
    assert 0.0 <= float(same.divergence.max()) < 1e-12
