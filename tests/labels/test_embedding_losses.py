"""Losses of embeddings against their definitions, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from fkd.errors import ConfigError
from fkd.labels.embedding_losses import bank_loss, contrastive_loss, cosine_loss, dims_loss
from fkd.labels.losses import soft_cross_entropy
from fkd.labels.targets import SoftTargets


def unit(n, d, seed):
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(vectors, dim=1)


def naive_cross_entropy(target_scores, scores):
    """Both are lists of one crop."""
    target = [math.exp(x) for x in target_scores]
    total = sum(target)
    log_sum = math.log(sum(math.exp(x) for x in scores))
    return sum(t / total * (log_sum - x) for t, x in zip(target, scores, strict=True))


def test_dims_is_the_cross_entropy_over_dimensions():
    student, teacher = unit(5, 16, 0), unit(5, 16, 1)
    expected = [
        naive_cross_entropy([x / 0.2 for x in t], [x / 0.2 for x in s])
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    torch.testing.assert_close(dims_loss(student, teacher, 0.2), torch.tensor(expected))


def test_dims_is_what_training_on_a_store_of_logits_computes():
    """So FKD-SSL needs no loss of its own: the stored vector over tau is the target."""
    student, teacher = unit(5, 16, 0).float(), unit(5, 16, 1).float()
    targets = SoftTargets.full(torch.softmax(teacher / 0.2, dim=1))
    torch.testing.assert_close(
        soft_cross_entropy(student, targets, temperature=0.2), dims_loss(student, teacher, 0.2)
    )


def test_dims_of_unit_vectors_is_near_the_entropy_of_even_odds():
    """|g / tau| <= 5 leaves little to learn at first sight: near log 128."""
    loss = dims_loss(unit(50, 128, 0), unit(50, 128, 1)).mean()
    assert abs(float(loss) - math.log(128)) < 0.2


def test_cosine():
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, -5.0], [1.0, 0.0]])
    expected = torch.tensor([0.0, 2.0, 1 - math.sqrt(0.5)])
    torch.testing.assert_close(cosine_loss(student, teacher), expected)


def test_bank_is_the_cross_entropy_of_similarities():
    student, teacher, bank = unit(4, 8, 0), unit(4, 8, 1), unit(20, 8, 2)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        similar = [float(s @ entry) / 0.2 for entry in bank]
        target = [float(t @ entry) / 0.07 for entry in bank]
        expected.append(naive_cross_entropy(target, similar))
    found = bank_loss(3 * student, 5 * teacher, 7 * bank)  # lengths do not matter
    torch.testing.assert_close(found, torch.tensor(expected))


def test_contrast_is_the_cross_entropy_of_the_other_crop_against_the_queue():
    queries, keys, queue = unit(5, 12, 0), unit(5, 12, 1), unit(30, 12, 2)
    expected = []
    for q, k in zip(queries, keys, strict=True):
        wrong = sum(math.exp(float(q @ other) / 0.2) for other in queue)
        right = math.exp(float(q @ k) / 0.2)
        expected.append(-math.log(right / (right + wrong)))
    found = contrastive_loss(queries, keys, queue)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("loss", [dims_loss, cosine_loss])
def test_a_student_that_gives_the_teachers_embedding_cannot_do_better(loss):
    teacher = unit(6, 8, 1).float()
    student = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher).sum(), student)
    assert gradient.abs().max() < 1e-6
    assert bool((loss(unit(6, 8, 2).float(), teacher) > loss(teacher, teacher)).all())


def test_half_precision_is_lifted():
    student, teacher = unit(3, 8, 0).half(), unit(3, 8, 1).half()
    for value in (dims_loss(student, teacher), bank_loss(student, teacher, teacher)):
        assert value.dtype == torch.float32


def test_other_widths_are_refused():
    with pytest.raises(ConfigError, match="give the student a head of 16 outputs"):
        dims_loss(unit(3, 8, 0), unit(3, 16, 1))
    with pytest.raises(ConfigError, match="the bank has 4 columns, embeddings 8"):
        bank_loss(unit(3, 8, 0), unit(3, 8, 1), unit(9, 4, 1))
