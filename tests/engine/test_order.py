"""The order of a run: complete, the same for any number of processes, weighted like one mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkd.engine.order import Order, step_seed
from fkd.engine.schedule import Pass, ScheduleConfig, plan_passes


def make_order(num_images=23, batch_size=10, epochs=9, crops_per_image=4, **settings):
    passes = plan_passes(epochs, crops_per_image, ScheduleConfig())
    return Order(
        images=np.arange(num_images) * 10,
        passes=passes,
        batch_size=batch_size,
        seed=3,
        **settings,
    )


def test_every_pass_shows_every_image_once_with_its_positions():
    order = make_order()
    seen = {}
    for step in range(order.num_steps):
        for request in order.chunk(step, 0).requests:
            for position in range(request.start, request.start + request.crops_per_image):
                seen.setdefault(position, []).append(request.image)
    assert sorted(seen) == list(range(9))
    for images in seen.values():
        assert sorted(images) == list(range(0, 230, 10))


def test_a_step_has_ceil_batch_size_by_m_images():
    order = make_order(num_images=100)
    assert len(order.global_batch(0)) == 3  # ceil(10 / 4)
    assert len(order.global_batch(order.num_steps - 1)) == 10  # single-crop ending


def test_passes_differ_in_their_order_and_seeds_in_theirs():
    order = make_order(num_images=100, batch_size=1000)
    first, second = order.global_batch(0), order.global_batch(1)
    assert not np.array_equal(first, second)
    other = Order(images=order.images, passes=order.passes, batch_size=1000, seed=4)
    assert not np.array_equal(first, other.global_batch(0))


@pytest.mark.parametrize("accumulate_steps", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_any_number_of_processes_shares_the_same_global_batches(world_size, accumulate_steps):
    alone = make_order()
    ranks = [
        make_order(world_size=world_size, rank=rank, accumulate_steps=accumulate_steps)
        for rank in range(world_size)
    ]
    for step in range(alone.num_steps):
        chunks = [order.chunk(step, part) for part in range(accumulate_steps) for order in ranks]
        together = [request for chunk in chunks if chunk.weight for request in chunk.requests]
        assert together == alone.chunk(step, 0).requests


@settings(deadline=None)
@given(
    num_images=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    world_size=st.integers(1, 5),
    accumulate_steps=st.integers(1, 3),
)
def test_weighted_means_of_the_chunks_are_the_mean_of_the_batch(
    num_images, batch_size, world_size, accumulate_steps
):
    ranks = [
        make_order(
            num_images,
            batch_size,
            world_size=world_size,
            rank=rank,
            accumulate_steps=accumulate_steps,
        )
        for rank in range(world_size)
    ]
    for step in range(ranks[0].num_steps):
        parts = range(accumulate_steps)
        chunks = [order.chunk(step, part) for part in parts for order in ranks]
        means = [
            chunk.weight * np.mean([request.image for request in chunk.requests])
            for chunk in chunks
        ]
        # Processes are averaged by DistributedDataParallel, parts are summed.
        assert sum(means) / world_size == pytest.approx(ranks[0].global_batch(step).mean())
        assert all(chunk.requests for chunk in chunks)


def test_alone_the_weight_is_exactly_one():
    order = make_order()
    assert {order.chunk(step, 0).weight for step in range(order.num_steps)} == {1.0}


def test_a_last_batch_of_one_crop_joins_the_one_before():
    order = Order(images=np.arange(9), passes=[Pass(0, 1)], batch_size=4, seed=0)
    assert [len(order.global_batch(step)) for step in range(order.num_steps)] == [4, 5]
    order = Order(images=np.arange(9), passes=[Pass(0, 2)], batch_size=8, seed=0)
    assert [len(order.global_batch(step)) for step in range(order.num_steps)] == [4, 4, 1]
    order = Order(images=np.arange(1), passes=[Pass(0, 1)], batch_size=4, seed=0)
    assert order.num_steps == 1


def test_step_infos_count_epochs_and_find_the_ends_of_passes():
    order = make_order(num_images=10, batch_size=8, epochs=9, crops_per_image=4)
    assert [of_pass.crops_per_image for of_pass in order.passes] == [4, 4, 1]
    ends = [step for step in range(order.num_steps) if order.step_info(step).ends_pass]
    assert len(ends) == len(order.passes)
    assert order.step_info(0).epoch == 0
    assert order.step_info(order.num_steps - 1).epoch_after == 9
    for step in range(1, order.num_steps):
        assert order.step_info(step).epoch == pytest.approx(order.step_info(step - 1).epoch_after)


def test_chunks_from_a_step_on_are_those_of_the_whole_run():
    order = make_order(accumulate_steps=2)
    assert list(order.chunks(5)) == list(order.chunks(0))[10:]


def test_step_seeds_are_distinct_and_fit_torch():
    seeds = {step_seed(0, step, chunk) for step in range(50) for chunk in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(0, 1, 0) != step_seed(1, 1, 0)


@pytest.mark.parametrize("num_images", [1, 2, 9, 10, 23])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
@pytest.mark.parametrize(("world_size", "accumulate_steps"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_the_smallest_forward_pass(num_images, batch_size, world_size, accumulate_steps):
    options = {"num_images": num_images, "batch_size": batch_size, "world_size": world_size}
    orders = [
        make_order(rank=rank, accumulate_steps=accumulate_steps, **options)
        for rank in range(world_size)
    ]
    counts = [
        sum(request.crops_per_image for request in chunk.requests)
        for order in orders
        for chunk in order.chunks(0)
    ]
    assert orders[0].fewest_crops == min(counts)
