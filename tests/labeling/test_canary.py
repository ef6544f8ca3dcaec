"""Canaries: training must cut what the teacher saw. Here because only labeling makes real ones."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fkd.crops.replay import replay
from fkd.data import canary
from fkd.data.canary import check_canaries
from fkd.data.sources import open_source
from fkd.errors import CropMismatch, StoreMismatch
from fkd.labeling.run import label
from fkd.store import LabelStore


@pytest.fixture(scope="module")
def config(make_config, tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("canary") / "store")
    label(config)
    return config


@pytest.fixture
def labeled(config):
    return LabelStore.open(config.out), open_source(config.images)


def flipped(image, records, size, interpolation, **options):
    return replay(image, replace(records, flip=~records.flip), size, interpolation, **options)


def brighter(image, records, size, interpolation, **options):
    crops = replay(image, records, size, interpolation, **options)
    return crops.clamp(max=254) + 1


def test_a_small_store_has_four_canaries_and_all_are_exact(labeled):
    store, source = labeled
    rows = [c.row for c in store.canaries]
    assert rows == sorted(set(rows))
    assert rows[0] < 4 < 10 < rows[3]
    report = check_canaries(store, source)
    assert (report.num, report.num_exact, report.mean_difference) == (4, 4, 0.0)
    assert report.same_libraries


@pytest.mark.parametrize("wrong", [flipped, brighter])
def test_with_the_same_libraries_every_bit_counts(labeled, monkeypatch, wrong):
    monkeypatch.setattr(canary, "replay", wrong)
    store, source = labeled
    name = re.escape(source.name(store.canaries[0].row))
    with pytest.raises(CropMismatch, match=f"{name} differs from what the teacher saw"):
        check_canaries(store, source)


def test_with_another_decoder_a_gray_level_is_allowed_and_a_flip_is_not(labeled, monkeypatch):
    monkeypatch.setitem(canary.DECODER, "version", "0.0")
    monkeypatch.setattr(canary, "replay", brighter)
    report = check_canaries(*labeled)
    assert report.num_exact < 4
    assert 0.5 < report.mean_difference <= 2.0
    assert not report.same_libraries
    monkeypatch.setattr(canary, "replay", flipped)
    with pytest.raises(CropMismatch, match=r"thumbnails differ by \d+\.\d gray levels"):
        check_canaries(*labeled)


def test_another_image_is_named(labeled, config, image_folder, tmp_path):
    store, images = labeled[0], shutil.copytree(image_folder, tmp_path / "train")
    first, second = (store.keys([c.row])[0].decode() for c in store.canaries[:2])
    shutil.copy(images / first, images / second)
    source = open_source(replace(config.images, root=str(images)))
    with pytest.raises(CropMismatch, match=f"{second} is not the file that was labeled"):
        check_canaries(store, source)
    (images / second).unlink()
    source = open_source(replace(config.images, root=str(images)))
    with pytest.raises(StoreMismatch, match=f"has no image {second}"):
        check_canaries(store, source)


def test_canaries_do_not_depend_on_who_asks(labeled):
    store, source = labeled
    assert canary.make_canaries(store, source) == store.canaries
    assert len(canary.make_canaries(store, source, 7)) == 7
    assert np.array_equal(
        *[canary.sample_positions(0, "canary", 64, 1000, 200)[1] for _ in range(2)]
    )
