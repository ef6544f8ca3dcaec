"""Crops that are drawn again: from the content of images, in the way that the config names."""

import json

import numpy as np
import pytest

from fkd.crops.sampling import CropConfig
from fkd.errors import FormatError
from fkd.store import LabelStore, canonical, keys_digest
from fkd.store.config import StoreConfig
from fkd.store.geometry import crops_member, draw_geometry, parse_crops

CROPS = CropConfig(scale=(0.2, 0.9), ratio=(0.5, 2.0), flip_prob=0.25, seed=-3)


def test_the_config_says_how_crops_are_drawn():
    member = json.loads(canonical.encode(crops_member(CROPS)))
    assert (member["generator"], member["drawn_from"]) == ("philox4x32-10", "content")
    assert parse_crops(member, "a config") == CROPS


def test_checksum_and_length_alone_tell_images_apart():
    crc32, length = np.array([7, 7, 8, 7], np.uint32), np.array([90, 90, 90, 91], np.uint64)
    sizes, numbers = np.full((4, 2), 60), np.tile(np.arange(5), (4, 1))
    box, flip = draw_geometry(CROPS, crc32, length, sizes, numbers)
    np.testing.assert_array_equal(box[0], box[1])  # the same file twice
    np.testing.assert_array_equal(flip[0], flip[1])
    assert all((box[0] != other).any() for other in box[2:])


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({}, None),
        ({"drawn_from": None}, "from the keys of images.*label again"),
        ({"drawn_from": "key"}, 'drawn_from is "key"'),
        ({"generator": "pcg64"}, 'generator is "pcg64"'),
    ],
)
def test_another_way_of_drawing_is_refused_not_drawn_wrongly(lab, changed, match):
    config = lab.Job(form="recomputed").config
    crops = {n: v for n, v in (config["crops"] | changed).items() if v is not None}
    config = config | {"crops": crops}
    if match is None:
        assert StoreConfig.parse(config, "config.json").crops == CropConfig()
        return
    with pytest.raises(FormatError, match=match) as refused:
        StoreConfig.parse(config, "config.json")
    assert "config.json" in str(refused.value)


def test_renamed_images_keep_their_crops(lab, tmp_path):
    """Keys are no part of what is drawn: a store of the same files under other keys has them."""
    jobs = [lab.Job(form="recomputed", unreadable=False) for _ in range(2)]
    jobs[1].keys = [b"a.tar/" + key for key in jobs[1].keys]
    jobs[1].config["keys_sha256"] = keys_digest(jobs[1].keys)
    for i, job in enumerate(jobs):
        job.run(tmp_path / str(i))
    stores = [LabelStore.open(tmp_path / str(i)) for i in range(2)]
    assert stores[0].keys() != stores[1].keys()
    first, second = (store.read(np.arange(len(store))).records for store in stores)
    np.testing.assert_array_equal(first.box, second.box)
    np.testing.assert_array_equal(first.flip, second.flip)
