"""Class folders that are called by ids: analyses know the true class by its number."""

import numpy as np
import pytest

from fkd.analysis import crop_sample, samples
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, open_source

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kea"]
FOLDERS = ("0", "2", "10")  # sorted as text: 0, 10, 2


@pytest.fixture(scope="module")
def images(make_images, tmp_path_factory):
    root = make_images(tmp_path_factory.mktemp("numbered") / "images", FOLDERS)
    return open_source(ImagesConfig(root=str(root), classes="by_number"))


@pytest.fixture(scope="module")
def store(make_store, images, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", images, class_names=NAMES)


def numbers_in(keys) -> list[int]:
    return [int(key.partition(b"/")[0]) for key in keys]


def test_samples_of_distance_and_labels(images, store):
    drawn = samples.draw_sample(images, store, samples.SampleConfig(), np.arange(len(images)))
    assert drawn.num_unknown == 0
    assert drawn.truth.tolist() == numbers_in(store.keys(drawn.rows))


def test_samples_of_teachers(images, store):
    drawn = crop_sample.draw_sample(
        images, [store], num_images=9, num_crops=2, crops=CropConfig(), seed=0
    )
    assert drawn.truth(NAMES).tolist() == numbers_in(drawn.keys)
    turned = NAMES[::-1]
    assert drawn.truth(turned).tolist() == numbers_in(drawn.keys)  # a number is a position
