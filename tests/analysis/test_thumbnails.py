"""Pairs that look the same: all of them, whatever the blocks in which they are looked for."""

import numpy as np
import pytest
import torch

from fkd.analysis import thumbnails as module
from fkd.analysis.thumbnails import find_similar, is_blank, make_thumbnail, similarity


def alike(n=60, seed=0) -> np.ndarray:
    """Smooth random thumbnails, of which later ones are noisy copies of earlier ones."""
    draw = np.random.default_rng(seed)
    coarse = draw.uniform(20, 235, (n, 3, 4, 4)).repeat(8, 2).repeat(8, 3)
    for i in range(n // 2, n):
        noise = draw.normal(0, 25 * (i - n // 2) / n, coarse[i].shape)
        coarse[i] = coarse[draw.integers(0, n // 2)] * draw.uniform(0.5, 0.9) + noise
    return coarse.clip(0, 255).astype(np.uint8)


def correlations(thumbnails) -> np.ndarray:
    return np.corrcoef(thumbnails.reshape(len(thumbnails), -1).astype(np.float64))


def no_priority(first, second):
    return np.zeros(len(first))


@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.985, 0.999])
@pytest.mark.parametrize(("block", "others", "pairs"), [(1024, 16384, 4096), (7, 10, 3), (1, 1, 1)])
def test_no_pair_is_missed(threshold, block, others, pairs, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(module, "_OTHERS", others)
    monkeypatch.setattr(module, "_PAIRS", pairs)
    thumbnails, done = alike(), []
    found = find_similar(
        thumbnails, threshold, priority=no_priority, most=10**6, progress=done.append
    )
    exact = correlations(thumbnails)
    expected = {(i, j) for i, j in np.argwhere(np.triu(exact, 1) >= threshold).tolist()}
    assert expected
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert found.num_found == len(expected) == len(found.first)
    assert np.allclose(found.similarity, exact[found.first, found.second], atol=1e-5)
    assert (np.diff(found.similarity) <= 0).all()
    assert sum(done) == len(thumbnails)


def test_too_many_pairs_keep_those_of_the_highest_priority():
    thumbnails = alike()

    def second_is_even(first, second):
        return (second % 2 == 0).astype(int)

    everything = find_similar(thumbnails, 0.6, priority=second_is_even, most=10**6)
    few = find_similar(thumbnails, 0.6, priority=second_is_even, most=5)
    assert few.num_found == everything.num_found > 5
    assert few.second.tolist() == everything.second[:5].tolist()
    assert (few.second % 2 == 0).all()


def test_the_search_ends_where_all_look_the_same(monkeypatch):
    monkeypatch.setattr(module, "_MOST_FOUND", 50)
    same = np.repeat(alike()[:1], 30, axis=0)
    found = find_similar(same, 0.985, priority=no_priority, most=10)
    assert not found.complete
    assert len(found.first) == 10


def test_nothing_to_compare():
    for n in (0, 1):
        found = find_similar(alike()[:n], 0.985, priority=no_priority, most=10)
        assert (found.num_found, found.complete) == (0, True)


def test_similarity_is_the_correlation():
    thumbnails = alike(6)
    expected = correlations(thumbnails)[[0, 2], [4, 5]]
    assert np.allclose(similarity(thumbnails, np.array([0, 2]), np.array([4, 5])), expected)


def test_a_thumbnail_of_any_image():
    for shape in ((3, 1, 1), (3, 500, 7), (3, 32, 32)):
        assert make_thumbnail(torch.zeros(shape, dtype=torch.uint8)).shape == (3, 32, 32)


def test_one_color_is_blank():
    red = np.zeros((3, 32, 32), np.uint8)
    red[0] = 200
    assert is_blank(np.stack([red, alike()[0]])).tolist() == [True, False]
