"""The clock of stages, and that functions are observed only while someone watches."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

import fkd.data.batches
import fkd.data.maps
import fkd.data.sources
from fkd.analysis import stages
from fkd.analysis.stages import StageClock, TimedBatch, TimedCutter, observed_loader
from fkd.crops.replay import InputSpec
from fkd.crops.sampling import CropConfig
from fkd.data.batches import Batch, CropCutter
from fkd.data.crop_sources import FreshCropSource, StoredCropSource
from fkd.data.maps import MapCropSource
from fkd.store import LabelStore


class FakeTime:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 100.0
        self.waits = 0

    def __call__(self):
        return self.now

    def wait(self):
        """A device that needs a second for whatever it was given."""
        self.waits += 1
        self.now += 1.0


def test_a_nested_stage_is_not_counted_twice():
    time = FakeTime()
    clock = StageClock(time)
    with clock.stage("crop"):
        time.now += 1
        with clock.stage("read"):
            time.now += 10
            with clock.stage("decode"):
                time.now += 100
            time.now += 10
        time.now += 1
        with clock.stage("decode"):
            time.now += 100
    time.now += 1000  # outside of all stages
    with clock.stage("crop"):
        time.now += 1
    assert clock.seconds == {"crop": 3, "read": 20, "decode": 200}


def test_a_stage_inside_itself_counts_once():
    time = FakeTime()
    clock = StageClock(time)
    with clock.stage("read"):
        time.now += 1
        with clock.stage("read"):
            time.now += 1
        time.now += 1
    assert clock.seconds == {"read": 3}


def test_a_stage_that_fails_ends():
    time = FakeTime()
    clock = StageClock(time)

    def fail():
        time.now += 10
        raise ValueError("broken")

    with clock.stage("read"):
        time.now += 1
        with pytest.raises(ValueError, match="broken"), clock.stage("decode"):
            fail()
        time.now += 1
    assert clock.seconds == {"read": 2, "decode": 10}


def test_what_a_device_still_computes_belongs_to_the_stage_that_started_it():
    time = FakeTime()
    clock = StageClock(time, synchronize=time.wait)
    with clock.stage("forward"):  # waits for what came before
        time.now += 10
    with clock.stage("loss"):
        pass
    assert clock.seconds == {"forward": 11, "loss": 1}
    assert time.waits == 4


def observed_functions():
    return [
        *(fkd.data.batches.load, fkd.data.sources.decode_image, LabelStore.read),
        *(StoredCropSource.select, fkd.data.maps.pool_maps, fkd.data.maps.roi_align_weights),
    ]


def test_functions_are_themselves_before_and_after():
    before = observed_functions()

    def fail():
        assert all(a is not b for a, b in zip(before, observed_functions(), strict=True))
        raise ValueError("any")

    with pytest.raises(ValueError, match="any"), observed_loader():
        fail()
    assert observed_functions() == before
    assert not stages._loader_is_observed


def make_cutter(source, crop_source) -> CropCutter:
    return CropCutter(source, crop_source, [InputSpec(16, "bilinear")])


@pytest.mark.parametrize("kind", ["fresh", "stored", "maps"])
def test_a_batch_says_what_it_took(kind, image_source, label_store, map_store):
    crop_source, labels = {
        "fresh": (FreshCropSource(image_source, CropConfig()), set()),
        "stored": (
            StoredCropSource(image_source, label_store, crops_per_image=2),
            {"label_read", "label_preparation"},
        ),
        "maps": (
            MapCropSource(image_source, map_store, CropConfig()),
            {"label_read", "label_preparation"},
        ),
    }[kind]
    cutter = make_cutter(image_source, crop_source)
    timed = pickle.loads(pickle.dumps(TimedCutter(cutter)))
    expected = cutter.cut([3, 1], 0, 2)
    with observed_loader():
        batch = timed.cut([3, 1], 0, 2)
    assert set(batch.seconds) == {"read", "decode", "crop"} | labels
    assert all(seconds > 0 for seconds in batch.seconds.values())
    assert batch.crops[0].equal(expected.crops[0])
    assert batch.labels.equal(expected.labels)


def test_threads_do_not_share_a_clock(image_source):
    """Two batches at once each know their own images alone."""
    crop_source = FreshCropSource(image_source, CropConfig())
    cutter = TimedCutter(make_cutter(image_source, crop_source))
    with observed_loader(), ThreadPoolExecutor(2) as pool:
        batches = list(pool.map(lambda i: cutter.cut([i], 0, 1), range(6)))
        assert stages._clock.get() is None
    assert len({tuple(batch.seconds.values()) for batch in batches}) == 6


def test_times_stay_with_a_batch_that_moves(image_source):
    crop_source = FreshCropSource(image_source, CropConfig())
    with observed_loader():
        batch = TimedCutter(make_cutter(image_source, crop_source)).cut([0], 0, 1)
    moved = batch.to("cpu")
    assert isinstance(moved, TimedBatch)
    assert moved.seconds == batch.seconds


def test_a_spawned_worker_observes_its_loader_by_itself(image_source, monkeypatch):
    """It does not inherit what its parent replaced."""
    monkeypatch.setattr(stages, "in_worker", lambda: True)
    crop_source = FreshCropSource(image_source, CropConfig())
    cutter = TimedCutter(make_cutter(image_source, crop_source))
    try:
        batches = [cutter.cut([0], 0, 1) for _ in range(2)]
    finally:
        stages._of_a_worker.close()
    assert [set(batch.seconds) for batch in batches] == [{"read", "decode", "crop"}] * 2


def test_nothing_is_observed_where_no_clock_runs(image_source):
    crop_source = FreshCropSource(image_source, CropConfig())
    with observed_loader():
        batch = make_cutter(image_source, crop_source).cut([0], 0, 1)
    assert type(batch) is Batch
