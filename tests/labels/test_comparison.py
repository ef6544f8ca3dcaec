"""The comparison of labels against its definition, written out class by class."""

import math

import pytest
import torch

from fkd.labels.codec_names import PerTeacher, parse_codec
from fkd.labels.comparison import LabelComparison, compare, compare_embeddings
from fkd.labels.targets import SoftTargets

B, C = 12, 7


def labels(codec, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = (2 * torch.randn(B, C, generator=generator)).softmax(1)
    return codec.targets(codec.encode(outputs), C)


def definition(reference, other):
    """Mean and largest KL(p || q), and mean total variation, in plain loops."""
    kls, distances = [], []
    for p_row, q_row in zip(reference.dense().tolist(), other.dense().tolist(), strict=True):
        pairs = list(zip(p_row, q_row, strict=True))
        kls.append(sum(p * math.log(p / max(q, 1e-12)) for p, q in pairs if p > 0))
        distances.append(sum(abs(p - q) for p, q in pairs) / 2)
    return sum(kls) / B, max(kls), sum(distances) / B


@pytest.mark.parametrize("one", ["full", "ms:3", "mr:3", "hard", "ms:7"])
@pytest.mark.parametrize("other", ["full", "ms:3", "mr:2", "smoothing"])
def test_figures_are_those_of_the_definition(one, other):
    p, q = labels(parse_codec(one), 0), labels(parse_codec(other), 1)
    mean_kl, max_kl, distance = definition(p, q)
    found = compare(p, q)
    assert found.num == B
    assert found.mean_kl == pytest.approx(mean_kl, rel=1e-4, abs=1e-6)
    assert found.max_kl == pytest.approx(max_kl, rel=1e-4, abs=1e-6)
    assert found.total_variation == pytest.approx(distance, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kept", [3, 7])
def test_labels_of_the_same_kept_classes_are_not_written_out(kept, monkeypatch):
    p = labels(parse_codec(f"ms:{kept}"), 0)
    q = SoftTargets(p.index, p.weight * 0.9, p.tail + 0.1 * p.weight.sum(1) / C, C)
    mean_kl, _, distance = definition(p, q)
    monkeypatch.setattr(SoftTargets, "dense", lambda self: pytest.fail("was written out"))
    found = compare(p, q)
    assert found.mean_kl == pytest.approx(mean_kl, rel=1e-4)
    assert found.total_variation == pytest.approx(distance, rel=1e-4)


def test_a_class_that_two_teachers_name_counts_once():
    codec = PerTeacher(parse_codec("ms:3"), 2)
    generator = torch.Generator().manual_seed(0)
    outputs = (2 * torch.randn(B, 2, C, generator=generator)).softmax(2)
    p = codec.targets(codec.encode(outputs), C)
    q = SoftTargets(p.index, p.weight * 0.9, p.tail + 0.1 * p.weight.sum(1) / C, C)
    assert compare(p, q).mean_kl == pytest.approx(definition(p, q)[0], rel=1e-4)


def test_equal_labels_agree():
    p = labels(parse_codec("ms:3"), 0)
    found = compare(p, p)
    assert (found.top1_agreement, found.total_variation) == (1.0, 0.0)
    assert 0.0 <= found.max_kl < 1e-12


def test_classes_that_rounding_made_equal_are_no_disagreement():
    p = SoftTargets.full(torch.tensor([[0.31, 0.30, 0.39], [0.31, 0.30, 0.39]]))
    q = SoftTargets.full(torch.tensor([[0.40, 0.20, 0.40], [0.50, 0.20, 0.30]]))
    assert compare(p, q).top1_agreement == 0.5


def test_parts_add_up_to_the_whole():
    p, q = labels(parse_codec("ms:3"), 0), labels(parse_codec("ms:2"), 1)
    whole = compare(p, q)
    added = LabelComparison.empty() + compare(p[:5], q[:5]) + compare(p[5:], q[5:])
    assert added.num == whole.num
    assert added.top1_agreement == pytest.approx(whole.top1_agreement)
    assert added.mean_kl == pytest.approx(whole.mean_kl)
    assert added.max_kl == whole.max_kl
    assert added.total_variation == pytest.approx(whole.total_variation)
    assert LabelComparison.empty() + LabelComparison.empty() == compare(p[:0], q[:0])


@pytest.mark.parametrize("size", [1e30, 1.0, 1e-10, 1e-30])
def test_directions_do_not_depend_on_the_size_of_embeddings(size):
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]]) * size
    b = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    report = compare_embeddings(a, b)
    assert report.mean_cosine == pytest.approx(0.5)
    assert report.least_cosine == pytest.approx(0.0)


def test_rows_of_zeros_are_equal_to_each_other_and_to_no_others():
    """All features of a crop may be behind a ReLU."""
    nothing, something = torch.zeros(1, 2), torch.ones(1, 2)
    assert compare_embeddings(nothing, nothing).least_cosine == 1.0
    assert compare_embeddings(nothing, something).mean_cosine == 0.0
    assert compare_embeddings(something, nothing).mean_cosine == 0.0
