"""Mean average precision and F1 against scikit-learn and torchmetrics."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torchmetrics.functional.classification import multilabel_average_precision

from fkd.evaluation.metrics import compare_multi_label
from fkd.evaluation.multi_label import average_precision, score_multi_label

N, C = 60, 7


def example(seed, levels=None):
    """Logits (with few different values, hence ties, if there are `levels`) and true classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, C, generator=generator)
    if levels:
        logits = (logits * levels).round() / levels
    right = torch.rand(N, C, generator=generator) < torch.linspace(0.02, 0.9, C)
    right[0] = True
    truth = torch.full((N, C), -1)
    for row, has in enumerate(right):
        ids = has.nonzero()[:, 0]
        truth[row, : len(ids)] = ids
    return logits, right, truth


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_each_class_and_the_mean(seed, levels):
    logits, right, truth = example(seed, levels)
    scores = score_multi_label(logits, truth)
    expected = [100 * average_precision_score(right[:, c], logits[:, c]) for c in range(C)]
    np.testing.assert_allclose(scores.average_precision, expected, rtol=1e-12)
    assert scores.mean_ap == pytest.approx(np.mean(expected))
    found = multilabel_average_precision(logits.sigmoid(), right.long(), num_labels=C)
    assert scores.mean_ap == pytest.approx(100 * float(found), abs=1e-3)
    predicted = logits >= 0
    assert scores.micro_f1 == pytest.approx(100 * f1_score(right, predicted, average="micro"))
    assert scores.macro_f1 == pytest.approx(100 * f1_score(right, predicted, average="macro"))


def test_classes_that_no_image_has_are_left_out_and_counted():
    logits, _, truth = example(0)
    truth = torch.where(truth == 3, -1, truth)
    whole, part = score_multi_label(*example(0)[::2]), score_multi_label(logits, truth)
    assert part.num_absent == 1
    assert np.isnan(part.average_precision).tolist() == [c == 3 for c in range(C)]
    others = [c for c in range(C) if c != 3]
    assert part.mean_ap == pytest.approx(whole.average_precision[others].mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f1 = f1_score(example(0)[1][:, others], (logits >= 0)[:, others], average="macro")
    assert part.macro_f1 == pytest.approx(100 * f1)


def test_logits_are_ranked_where_their_sigmoids_are_equal():
    """Above 17 all sigmoids are 1 in float32, and a perfect order would look like chance."""
    scores = torch.tensor([40.0, 30.0, 20.0, 19.0])
    assert average_precision(scores, torch.tensor([True, True, False, False])) == 1.0
    assert average_precision(scores.sigmoid(), torch.tensor([True, True, False, False])) == 0.5


def test_images_without_a_class_count_as_errors():
    logits = torch.tensor([[1.0], [0.5], [-1.0]])
    truth = torch.tensor([[-1], [0], [-1]])
    assert score_multi_label(logits, truth).mean_ap == 50.0


def test_the_divergence_of_a_teacher_is_that_of_all_classes():
    teacher, student = (
        torch.randn(5, C, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    found = compare_multi_label(teacher, student)
    p, q = teacher.double().sigmoid(), student.double().sigmoid()
    naive = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    torch.testing.assert_close(found.divergence.double(), naive, rtol=1e-5, atol=1e-6)
    assert (compare_multi_label(teacher, teacher).divergence == 0).all()
