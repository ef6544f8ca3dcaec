"""Calibrated views: what is left out stays out, labels follow the rule, runs are reproducible."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fkd.crops.replay import InputSpec
from fkd.data.batches import CropCutter
from fkd.data.calibrated import CalibratedCropSource, Survey, survey
from fkd.data.crop_sources import StoredCropSource
from fkd.data.joining import map_classes, true_classes
from fkd.data.sources import ImagesConfig, open_source
from fkd.engine.logging import read_metrics
from fkd.errors import ConfigError
from fkd.labels.calibration import CalibrationConfig, Verdict
from fkd.labels.codecs import decode
from fkd.training import StudentConfig, TrainConfig, train

CONFIG = CalibrationConfig(low=0.45, mid=0.6, high=0.9)


def dense_labels(store):
    """Decoded labels of all crops, (N, M, C)."""
    stored = store.read(np.arange(len(store)))
    return decode(store.codec, stored.label, 4).view(15, 6, 4)


@pytest.fixture
def truth(image_source, label_store):
    return true_classes(
        image_source, map_classes(image_source.class_names, label_store.class_names)
    )


@pytest.fixture
def open_views(image_source, label_store, truth):

    def build(config=CONFIG, found=None, **options):
        found = found or survey(label_store, label_store.codec, config, np.arange(15), truth)
        return CalibratedCropSource(
            image_source,
            label_store,
            truth=truth,
            survey=found,
            smoothing=config.smoothing,
            **({"crops_per_image": 2, "seed": 4} | options),
        )

    return build


def verdicts_with(left, num_crops=6):
    """Image i keeps left[i] crops, the last ones."""
    verdicts = np.zeros((len(left), num_crops), np.uint8)
    for i, n in enumerate(left):
        verdicts[i, : num_crops - n] = Verdict.LEAVE_OUT
    return Survey(verdicts, verdicts.size, 0, 0, 0)


@pytest.mark.parametrize("confidence", ["largest", "truth"])
def test_the_survey_judges_every_crop_by_the_rule(label_store, truth, confidence):
    q = dense_labels(label_store)
    own = torch.from_numpy(truth)[:, None, None].expand(-1, 6, 1)
    values = q.amax(2) if confidence == "largest" else q.gather(2, own)[..., 0]
    config = replace(CONFIG, confidence=confidence)
    found = survey(label_store, label_store.codec, config, np.arange(15), truth)
    out = (values < 0.45) | (values > 0.9)
    lost = out.all(1)
    expected = torch.where(out, Verdict.LEAVE_OUT, torch.where(values < 0.6, 1, 0))
    expected[lost] = (values[lost] < 0.45).long()
    np.testing.assert_array_equal(found.verdicts, expected.numpy())
    assert found.num_crops == 90
    assert found.num_left_out == (expected == Verdict.LEAVE_OUT).sum() > 0
    assert found.num_calibrated == (expected == Verdict.CALIBRATE).sum() > 0
    assert found.num_restored == lost.sum()


def test_shares_are_shares_of_all_crops(label_store, truth):
    config = CalibrationConfig(low=0.1, mid=0.3, shares=True)
    found = survey(label_store, label_store.codec, config, np.arange(15), truth)
    assert found.num_left_out + found.num_calibrated == 27
    assert 7 <= found.num_left_out <= 9
    assert str(found).startswith(f"{found.num_left_out / 90:.1%}".replace("%", " %"))


def test_crops_come_from_those_that_are_left_each_once_per_cycle(open_views):
    left = [6, 5, 4, 3, 2] * 3
    views = open_views(found=verdicts_with(left))
    for image, n in enumerate(left):
        numbers = np.concatenate(
            [views.crop_numbers(np.array([image]), start, 2) for start in range(0, 4 * n, 2)],
            axis=1,
        )[0]
        cycles = np.sort(numbers.reshape(4, n), axis=1)
        np.testing.assert_array_equal(cycles, np.tile(np.arange(6 - n, 6), (4, 1)))
        assert (numbers[::2] != numbers[1::2]).all()


def test_an_image_has_the_same_crops_in_any_company(open_views):
    views = open_views(found=verdicts_with([6, 3, 1, 2, 5] * 3))
    together = views.crop_numbers(np.arange(15), 4, 2)
    for i in range(15):
        np.testing.assert_array_equal(views.crop_numbers(np.array([i]), 4, 2)[0], together[i])


def test_too_few_crops_are_repeated_as_little_as_can_be(open_views):
    views = open_views(found=verdicts_with([1, 2, 3, 4, 6] * 3), crops_per_image=4)
    numbers = views.crop_numbers(np.arange(15), 8, 4)
    for row, n in zip(numbers, [1, 2, 3, 4, 6] * 3, strict=True):
        assert row.min() >= 6 - n
        assert len(set(row.tolist())) >= min(n, 4) - (n == 3)


def test_labels_of_a_batch_follow_the_rule(open_views, image_source, label_store, truth):
    views = open_views()
    cutter = CropCutter(image_source, views, [InputSpec(16, "bilinear")])
    plain = StoredCropSource(image_source, label_store, crops_per_image=2, seed=4)
    q, verdicts = dense_labels(label_store), views._verdicts
    images = [3, 14, 0, 7, 8, 9]
    seen = set()
    for start in range(0, 12, 2):
        numbers = views.crop_numbers(np.array(images), start, 2)
        batch = cutter.cut(images, start, 2)
        for row, (i, crop) in zip(
            batch.targets.dense(),
            [(i, c) for i, both in zip(images, numbers, strict=True) for c in both],
            strict=True,
        ):
            expected = q[i, crop]
            if verdicts[i, crop] == Verdict.CALIBRATE:
                expected = torch.full((4,), 0.1 / 3)
                expected[truth[i]] = 0.9
            assert verdicts[i, crop] != Verdict.LEAVE_OUT
            torch.testing.assert_close(row, expected)
            seen.add(int(verdicts[i, crop]))
    assert seen == {Verdict.KEEP, Verdict.CALIBRATE}
    assert not np.array_equal(plain.crop_numbers(np.arange(15), 0, 2), numbers)


@pytest.fixture
def run(tmp_path, image_folder, label_store):
    return TrainConfig(
        out=str(tmp_path / "run"),
        images=ImagesConfig(root=str(image_folder)),
        store=str(label_store.path),
        student=StudentConfig(name="test_vit", input_size=32),
        crops_per_image=2,
        epochs=4,
        batch_size=10,
        num_workers=0,
        calibration=CalibrationConfig(low=0.45, mid=0.6),
        device="cpu",
    )


class Listener:
    """A progress that keeps what it is told first."""

    def begin(self, step, num_steps, description):
        self.description = description

    def advance(self, step, metrics):
        pass

    def evaluated(self, metrics):
        pass


def test_a_run_calibrates_says_so_and_differs_from_a_plain_one(run, tmp_path):
    listener = Listener()
    first = train(run, listener)
    assert "% of the crops left out" in listener.description
    again = train(replace(run, out=str(tmp_path / "again")))
    plain = train(replace(run, out=str(tmp_path / "plain"), calibration=CalibrationConfig()))
    assert first.loss == again.loss != plain.loss
    assert all(line["loss"] > 0 for line in read_metrics(first.path / "metrics.jsonl"))


def test_calibration_needs_true_classes_and_stored_labels(run, tmp_path, make_images, make_store):
    root = make_images(tmp_path / "flat", classes=("x", "y"))
    images = ImagesConfig(root=str(root))
    store = make_store(tmp_path / "labels", open_source(images))
    with pytest.raises(ConfigError, match=r"10 of 10 lack one .* leave calibration out"):
        train(replace(run, images=images, store=str(store.path)))
    with pytest.raises(ConfigError, match="calibration: method vanilla does not use it"):
        replace(run, method="vanilla", store=None)
