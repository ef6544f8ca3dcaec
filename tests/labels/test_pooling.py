"""Pooling of label maps against the dense way: fill up, torchvision's RoI align, softmax."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from fkd.errors import ConfigError
from fkd.labels.pooling import PoolingConfig, crop_weights, fall_back, pool_maps, roi_align_weights
from fkd.labels.targets import SoftTargets

C = 40


def random_maps(draw, num_images, grid, k, num_classes=C):
    cells = grid[0] * grid[1]
    index = draw.random((num_images, cells, num_classes)).argsort(axis=2)[..., :k]
    value = -np.sort(-draw.normal(4, 6, (num_images, cells, k)))
    return index, value.astype(np.float32)


def dense_map(index, value, grid, fill=0.0, num_classes=C):
    """(C, gh, gw) of one image, float64; `fill` is a number, or "last" for each cell's smallest."""
    filled = np.zeros((len(index), num_classes))
    for cell, (ids, logits) in enumerate(zip(index, value, strict=True)):
        filled[cell] = logits.min() if fill == "last" else fill
        filled[cell, ids] = logits
    return torch.from_numpy(filled.T.reshape(num_classes, *grid).copy())


def oracle_logits(dense, box, size, swap=False):
    """Pooled logits (C,) of one crop, by torchvision."""
    top, left, height, width = map(float, box)
    _, rows, columns = dense.shape
    y = (top / size[0], (top + height) / size[0])
    x = (left / size[1], (left + width) / size[1])
    if swap:
        y, x = x, y
    roi = [0.0, *(columns * e - 0.5 for e in x), *(rows * e - 0.5 for e in y)]
    roi = torch.tensor([[roi[0], roi[1], roi[3], roi[2], roi[4]]], dtype=torch.float64)
    pooled = roi_align(dense[None], roi, 1, spatial_scale=1.0, sampling_ratio=-1, aligned=False)
    return pooled[0, :, 0, 0]


@st.composite
def crops(draw):
    """A grid, the size of an image, and a box inside it; often narrower than a cell."""
    grid = draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    size = draw(st.tuples(st.integers(1, 400), st.integers(1, 400)))
    box = []
    for side in size:
        length = draw(st.integers(1, side) | st.integers(1, min(side, 9)))
        box.append((draw(st.integers(0, side - length)), length))
    return grid, size, np.array([box[0][0], box[1][0], box[0][1], box[1][1]])


@settings(max_examples=300, deadline=None)
@given(crop=crops(), seed=st.integers(0, 99), swap=st.booleans())
def test_a_pooled_label_is_that_of_dense_roi_align(crop, seed, swap):
    grid, size, box = crop
    index, value = random_maps(np.random.default_rng(seed), 1, grid, 5)
    expected = torch.softmax(oracle_logits(dense_map(index[0], value[0], grid), box, size, swap), 0)
    config = PoolingConfig(swap_xy=swap)
    weights = crop_weights(config, box[None, None], np.array(size), grid)
    q = pool_maps(config, index, value, weights, C).dense()[0]
    torch.testing.assert_close(q.double(), expected, atol=1e-6, rtol=0)


@settings(max_examples=200, deadline=None)
@given(crop=crops())
def test_weights_are_an_average(crop):
    grid, size, box = crop
    weights = roi_align_weights(box, np.array(size), grid)
    assert weights.min() >= 0
    assert abs(weights.sum() - 1) < 1e-12


def boxes_of(draw, size, shape):
    sides = np.stack([draw.integers(1, n + 1, shape) for n in size], -1)
    corners = np.stack([draw.integers(0, n - sides[..., i] + 1) for i, n in enumerate(size)], -1)
    return np.concatenate([corners, sides], -1)


@pytest.fixture
def batch():
    """Maps of 3 images, and 70 crops of each: more than are pooled at a time."""
    draw, grid, size = np.random.default_rng(0), (4, 5), (60, 90)
    index, value = random_maps(draw, 3, grid, 5)
    return grid, size, index, value, boxes_of(draw, size, (3, 70))


def pool(batch, **options):
    grid, size, index, value, boxes = batch
    config = PoolingConfig(**options)
    return pool_maps(config, index, value, crop_weights(config, boxes, np.array(size), grid), C)


def oracle(batch, fill=0.0):
    """Dense pooled logits (crops, C)."""
    grid, size, index, value, boxes = batch
    return torch.stack(
        [
            oracle_logits(dense_map(i, v, grid, fill), box, size)
            for i, v, own in zip(index, value, boxes, strict=True)
            for box in own
        ]
    )


@pytest.mark.parametrize(("fill", "number"), [("zero", 0.0), ("smallest_kept", "last")])
def test_missing_classes_are_filled_up(batch, fill, number):
    logits = oracle(batch, number)
    q = pool(batch, fill=fill)
    assert q.index.shape[1] <= C
    torch.testing.assert_close(q.dense().double(), torch.softmax(logits, 1), atol=1e-6, rtol=0)
    single = pool(batch, fill=fill, variant="localized_single").dense()
    assert single.sum(1).tolist() == [1.0] * 210
    chosen = logits.gather(1, single.argmax(1)[:, None])[:, 0]
    torch.testing.assert_close(chosen, logits.max(1).values)


def test_a_class_that_a_cell_lacks_may_be_impossible():
    """Here every cell has class 7; some crops also share others, most do not."""
    draw, grid, size = np.random.default_rng(1), (3, 3), (30, 30)
    index, value = random_maps(draw, 2, grid, 5)
    index[0] = np.where(index[0] == 7, index[0, :, :1], index[0])
    index[0, :, 0] = 7
    boxes = boxes_of(draw, size, (2, 50))
    batch = grid, size, index, value, boxes
    logits = oracle(batch, -1e12)
    logits[logits < -1e3] = -torch.inf
    shared = torch.isfinite(logits).any(1)
    assert shared[:50].all()
    assert not shared[50:].all()
    expected = torch.softmax(torch.where(shared[:, None], logits, oracle(batch, "last")), 1)
    q = pool(batch, fill="minus_infinity").dense().double()
    torch.testing.assert_close(q, expected, atol=1e-6, rtol=0)
    best = pool(batch, fill="minus_infinity", variant="localized_single").dense().double()
    assert torch.equal(best.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("fill", ["zero", "smallest_kept"])
def test_global_labels_are_those_of_the_mean_cell(batch, fill):
    grid, _, index, value, _ = batch
    number = 0.0 if fill == "zero" else "last"
    means = torch.stack(
        [dense_map(i, v, grid, number).mean((1, 2)) for i, v in zip(index, value, strict=True)]
    )
    q = pool(batch, variant="global_multi", fill=fill).dense().double()
    expected = torch.softmax(means, 1).repeat_interleave(70, 0)
    torch.testing.assert_close(q, expected, atol=1e-6, rtol=0)
    single = pool(batch, variant="global_single", fill=fill).dense()
    assert torch.equal(single.argmax(1), means.argmax(1).repeat_interleave(70))


def test_the_global_label_is_that_of_the_crop_of_everything():
    """Points of RoI align over the whole map are the centers of the cells."""
    weights = roi_align_weights(np.array([0, 0, 77, 31]), np.array([77, 31]), (15, 15))
    np.testing.assert_allclose(weights, 1 / 225, atol=1e-15)


def test_no_logit_above_zero_makes_a_class_of_the_rest_the_most_probable():
    index, value = np.array([[[3, 0]]]), np.array([[[-1.0, -2.0]]])
    weights = np.ones((1, 1, 1))
    q = pool_maps(PoolingConfig(), index, value, weights, 4).dense()[0]
    expected = torch.softmax(torch.tensor([-2.0, 0, 0, -1]), 0)
    torch.testing.assert_close(q, expected)
    single = PoolingConfig(variant="localized_single")
    assert pool_maps(single, index, value, weights, 4).dense()[0].tolist() == [0, 1, 0, 0]


def test_padding_changes_neither_label_nor_entropy(batch):
    q = pool(batch)
    dense = q.dense().double()
    entropy = torch.special.entr(dense).sum(1)
    torch.testing.assert_close(q.entropy().double(), entropy, atol=1e-5, rtol=1e-5)
    assert (q.weight == 0).any()


def test_the_true_class_stands_in_where_the_label_is_doubtful():
    index = torch.tensor([[1, 2], [0, 0], [1, 0], [2, 0]])
    weight = torch.tensor([[0.3, 0.2], [0.9, 0.0], [0.1, 0.0], [0.1, 0.0]])
    tail = torch.tensor([0.1, 0.02, 0.18, 0.18])
    targets = SoftTargets(index, weight, tail, 5)
    config = PoolingConfig(fallback=0.5, fallback_smoothing=0.1)
    found = fall_back(config, targets, torch.tensor([4, 4, -1, 2]))
    truth = torch.tensor([0.02, 0.02, 0.02, 0.02, 0.92])
    torch.testing.assert_close(found.dense()[0], truth)
    torch.testing.assert_close(found.dense()[1:3], targets.dense()[1:3])
    torch.testing.assert_close(found.dense()[3], truth[[0, 1, 4, 2, 3]])
    off = fall_back(PoolingConfig(), targets, torch.tensor([4, 4, 4, 4]))
    torch.testing.assert_close(off.dense(), targets.dense())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "local"}, "localized_multi, localized_single"),
        ({"fill": "six"}, "zero, smallest_kept, minus_infinity"),
        ({"fallback": 1.5}, "fallback must lie in"),
        ({"fallback_smoothing": 1.0}, "fallback_smoothing must lie in"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PoolingConfig(**options)
