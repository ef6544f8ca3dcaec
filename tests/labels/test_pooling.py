"""Pooling of label maps against the dense way: fill up, torchvision's RoI align, softmax."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from fkd.labels.pooling import pool_maps, roi_align_weights

C = 40


def random_maps(draw, num_images, grid, k, num_classes=C):
    cells = grid[0] * grid[1]
    index = draw.random((num_images, cells, num_classes)).argsort(axis=2)[..., :k]
    value = -np.sort(-draw.normal(4, 6, (num_images, cells, k)))
    return index, value.astype(np.float32)


def dense_map(index, value, grid, num_classes=C):
    """(C, gh, gw) of one image, float64; 0 for the classes that a cell does not name."""
    filled = np.zeros((len(index), num_classes))
    for cell, (ids, logits) in enumerate(zip(index, value, strict=True)):
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
    weights = roi_align_weights(box[None, None], np.array(size), grid, swap_xy=swap)
    q = pool_maps(index, value, weights, C).dense()[0]
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


def pool(batch):
    grid, size, index, value, boxes = batch
    return pool_maps(index, value, roi_align_weights(boxes, np.array(size), grid), C)


def test_crops_of_several_images_are_pooled_in_their_order(batch):
    grid, size, index, value, boxes = batch
    logits = torch.stack(
        [
            oracle_logits(dense_map(i, v, grid), box, size)
            for i, v, of_image in zip(index, value, boxes, strict=True)
            for box in of_image
        ]
    )
    q = pool(batch)
    assert q.index.shape[1] <= C
    torch.testing.assert_close(q.dense().double(), torch.softmax(logits, 1), atol=1e-6, rtol=0)


def test_a_crop_of_the_whole_image_has_the_mean_of_all_cells():
    """Points of RoI align over the whole map are the centers of the cells."""
    weights = roi_align_weights(np.array([0, 0, 77, 31]), np.array([77, 31]), (15, 15))
    np.testing.assert_allclose(weights, 1 / 225, atol=1e-15)


def test_without_a_logit_above_zero_the_other_classes_are_the_most_probable():
    index, value = np.array([[[3, 0]]]), np.array([[[-1.0, -2.0]]])
    weights = np.ones((1, 1, 1))
    q = pool_maps(index, value, weights, 4).dense()[0]
    expected = torch.softmax(torch.tensor([-2.0, 0, 0, -1]), 0)
    torch.testing.assert_close(q, expected)


def test_padding_changes_neither_label_nor_entropy(batch):
    q = pool(batch)
    dense = q.dense().double()
    entropy = torch.special.entr(dense).sum(1)
    torch.testing.assert_close(q.entropy().double(), entropy, atol=1e-5, rtol=1e-5)
    assert (q.weight == 0).any()
