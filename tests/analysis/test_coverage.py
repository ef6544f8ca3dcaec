"""Uses of stored crops: as the real loader asks for them, and as the paper's authors' code does."""

import numpy as np
import pytest

from fkd.analysis.coverage import (
    CoverageConfig,
    compare_num_crops,
    count_uses,
    draw_coverage,
    enough_crops,
    measure_coverage,
)
from fkd.crops.replay import InputSpec
from fkd.data.batches import CropCutter, load_batches
from fkd.data.crop_sources import StoredCropSource
from fkd.engine.order import Order
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.store import LabelStore

KEYS = [b"image %d" % i for i in range(24)]


def loaded_uses(config: CoverageConfig, images, store, batch_size=7) -> np.ndarray:
    """How often training reads each crop of the store: all batches of a run are loaded."""
    uses = np.zeros((len(store), store.num_crops), np.int64)
    read = LabelStore.read

    def counting(self, rows, crops=None):
        for row, numbers in zip(rows, crops, strict=True):
            for number in numbers:
                uses[row, number] += 1
        return read(self, rows, crops)

    source = StoredCropSource(
        images,
        store,
        crops_per_image=config.m,
        offset=config.schedule.warmup_epochs,
        seed=config.seed,
        order=config.order,
    )
    order = Order(
        images=np.arange(len(images)), passes=config.passes, batch_size=batch_size, seed=config.seed
    )
    cutter = CropCutter(images, source, [InputSpec(4, "bilinear")])
    requests = (chunk.requests for chunk in order.chunks(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelStore, "read", counting)
        list(load_batches(cutter, requests, num_workers=0, pin_memory=False))
    return uses


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 6},
        {"epochs": 9, "crops_per_image": 2, "order": "iid", "seed": 3},
        {"epochs": 11, "crops_per_image": 3, "schedule": ScheduleConfig(warmup_epochs=2)},
        {
            "epochs": 10,
            "crops_per_image": 4,
            "order": "iid",
            "schedule": ScheduleConfig(single_crop_ending=False),
        },
    ],
)
def test_uses_are_those_of_the_real_loader(settings, image_source, label_store):
    config = CoverageConfig(num_crops=label_store.num_crops, **settings)
    expected = loaded_uses(config, image_source, label_store)
    assert np.array_equal(count_uses(config, label_store.keys()), expected)
    some = [label_store.keys()[i] for i in (3, 7, 8)]  # do not depend on the other images
    assert np.array_equal(count_uses(config, some), expected[[3, 7, 8]])


@pytest.mark.parametrize(("num_crops", "share"), [(500, 0.45), (200, 0.78)])
@pytest.mark.parametrize("m", [1, 4])
def test_the_official_draw_leaves_crops_unused(num_crops, share, m):
    """300 crop-epochs; the expected share is 1 - prod over passes of (1 - m / M)."""
    config = CoverageConfig(num_crops=num_crops, crops_per_image=m, order="iid")
    found = measure_coverage(config, KEYS)
    unused = np.prod([1 - each.crops_per_image / num_crops for each in config.passes])
    assert found.share_used == pytest.approx(share, abs=0.015)
    assert found.share_used == pytest.approx(1 - unused, abs=0.015)
    assert found.least_used < found.share_used < found.most_used


@pytest.mark.parametrize(
    ("num_crops", "uses"), [(30, (0, 30)), (60, (30, 30)), (10, (0, 0, 0, 10))]
)
def test_without_replacement_every_crop_once_per_cycle(num_crops, uses):
    found = measure_coverage(CoverageConfig(num_crops=num_crops, epochs=30), KEYS[:2])
    assert found.uses == tuple(2 * count for count in uses)
    assert found.share_used == min(1.0, 30 / num_crops)
    assert found.different_crops == min(30, num_crops)
    assert found.mean_uses == max(1.0, 30 / num_crops)


def test_progress_counts_every_access():
    config, seen = CoverageConfig(num_crops=8, epochs=10), []
    measure_coverage(config, KEYS, seen.append)
    assert sum(seen) == len(KEYS) * len(config.passes)


def test_enough_crops_are_as_many_as_epochs():
    config = CoverageConfig(num_crops=20, epochs=40)
    compared = compare_num_crops(config, KEYS)
    assert [row.num_crops for row in compared["iid"]] == [5, 10, 20, 40, 80, 160]
    assert enough_crops(config, compared["epoch_permutation"]) == 40
    assert (
        enough_crops(config, compared["iid"]) == 160
        or enough_crops(config, compared["iid"]) is None
    )
    fewer = [row.different_crops for row in compared["iid"]]
    assert fewer == sorted(fewer)
    assert all(row.num_crops >= config.m for rows in compared.values() for row in rows)


@pytest.mark.parametrize(("num_crops", "epochs"), [(10, 8), (1, 40)])
def test_the_figure_shows_all_crops(num_crops, epochs):
    config = CoverageConfig(num_crops=num_crops, epochs=epochs)
    found = measure_coverage(config, KEYS[:4])
    figure = draw_coverage(config, found, compare_num_crops(config, KEYS[:2]))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(100.0)
    assert len(heights) <= 12


def test_m_is_that_of_training():
    assert CoverageConfig(num_crops=9).m == 4
    assert CoverageConfig(num_crops=3).m == 3
    assert CoverageConfig(num_crops=3, crops_per_image=1).m == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_crops": 0}, "num_crops"),
        ({"num_crops": 3, "crops_per_image": 4}, "only 3 crops of an image are stored"),
        ({"num_crops": 3, "crops_per_image": 0}, "crops_per_image"),
        ({"num_crops": 3, "epochs": 0}, "epochs"),
        ({"num_crops": 3, "order": "random"}, "order"),
        ({"num_crops": 9, "epochs": 2, "schedule": ScheduleConfig(warmup_epochs=3)}, "warmup"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match=said):
        CoverageConfig(**settings)
