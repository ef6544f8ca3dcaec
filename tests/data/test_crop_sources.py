"""Draws of stored crops: complete, distinct within a batch, reproducible."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fkd.data.crop_sources import without_replacement

STREAMS = np.arange(5, dtype=np.uint64)


def draws(num_crops, stride, offset, num_positions, streams=STREAMS):
    """Crop numbers (B, num_positions), asked for access by access as a run does."""
    positions = list(range(min(offset, num_positions)))
    accesses = [range(p, p + 1) for p in positions]
    accesses += [
        range(p, min(p + stride, num_positions)) for p in range(offset, num_positions, stride)
    ]
    return np.concatenate(
        [without_replacement(streams, num_crops, a, stride, offset) for a in accesses], axis=1
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_cycle_has_every_crop_once_and_an_access_none_twice(data):
    num_crops = data.draw(st.integers(1, 12))
    stride = data.draw(st.integers(1, num_crops))
    offset = data.draw(st.integers(0, 9))
    num_cycles = data.draw(st.integers(1, 6))
    total = num_crops * num_cycles
    crops = draws(num_crops, stride, offset, total)
    cycles = crops.reshape(len(STREAMS), num_cycles, num_crops)
    assert np.array_equal(np.sort(cycles, axis=2), np.broadcast_to(range(num_crops), cycles.shape))
    for start in range(offset, total - stride + 1, stride):
        access = np.sort(crops[:, start : start + stride], axis=1)
        assert (np.diff(access, axis=1) > 0).all()


def test_a_position_has_the_same_crop_however_it_is_asked_for():
    """The single-crop ending asks one by one what a multi-crop pass would ask together."""
    together = without_replacement(STREAMS, 5, range(3, 6), 3, 0)
    one_by_one = [without_replacement(STREAMS, 5, range(p, p + 1), 3, 0) for p in range(3, 6)]
    assert np.array_equal(together, np.concatenate(one_by_one, axis=1))


def test_orders_differ_between_images_and_cycles():
    crops = draws(50, 1, 0, 100)
    assert not np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0, :50], crops[0, 50:])


def test_an_image_has_the_same_crops_in_any_company():
    alone = draws(7, 3, 1, 21, streams=STREAMS[2:3])
    assert np.array_equal(alone[0], draws(7, 3, 1, 21)[2])


def test_first_crops_are_spread_evenly():
    first = without_replacement(np.arange(4000, dtype=np.uint64), 4, range(0, 1), 1, 0)
    assert np.bincount(first[:, 0], minlength=4).min() > 900
