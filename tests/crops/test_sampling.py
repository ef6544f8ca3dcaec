import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from fkd.crops.replay import sample_crops
from fkd.crops.sampling import (
    CropConfig,
    content_key,
    content_streams,
    draw_crops,
    place_crops,
    sample_boxes,
)
from fkd.errors import ConfigError
from fkd.randomness import Purpose, stream_key, stream_keys, uniforms


def naive_crop(config, key, size, number):
    """RandomResizedCrop.get_params written out as torchvision does, on the same draws."""
    draws = iter(uniforms(stream_key(config.seed, key), Purpose.CROP, number, 23).tolist())
    tries = [(next(draws), next(draws)) for _ in range(10)]
    corner = next(draws), next(draws)
    flip = next(draws) < config.flip_prob
    height, width = size
    for a, r in tries:
        area = height * width * (config.scale[0] + (config.scale[1] - config.scale[0]) * a)
        low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
        ratio = math.exp(low + (high - low) * r)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = math.floor(corner[0] * (height - h + 1))
            return [top, math.floor(corner[1] * (width - w + 1)), h, w], flip
    w, h = width, height
    if width / height < config.ratio[0]:
        h = round(w / config.ratio[0])
    elif width / height > config.ratio[1]:
        w = round(h * config.ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w], flip


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.binary(max_size=12),
    st.integers(0, 2**40),
    st.sampled_from([(0.08, 1.0), (0.5, 0.936), (1.0, 1.0)]),
)
@settings(max_examples=150, deadline=None)
def test_boxes_are_those_of_torchvisions_algorithm(height, width, key, seed, scale):
    config = CropConfig(seed=seed, scale=scale)
    records = sample_crops(config, key, (height, width), np.arange(6))
    for number in range(6):
        box, flip = naive_crop(config, key, (height, width), number)
        if min(height, width) > 1:  # below, our fallback never gives an empty box
            assert records.box[number].tolist() == box
        assert bool(records.flip[number]) == flip
    top, left, h, w = records.box.T
    assert (records.box[:, 2:] >= 1).all()
    assert (records.box[:, :2] >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_boxes_are_distributed_as_torchvisions():
    """Against torchvision itself: means of area and aspect of 4,000 boxes, within 4 sigma."""
    image = torch.empty(3, 300, 500)
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    ours = sample_crops(CropConfig(), b"an image", (300, 500), np.arange(4000)).box
    for feature in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        a, b = feature(ours), feature(theirs)
        assert abs(a.mean() - b.mean()) < 4 * math.hypot(a.std(), b.std()) / math.sqrt(4000)
        assert abs(a.std() / b.std() - 1) < 0.06


def test_golden_crops():
    """The crops of a store must never move: not by a refactoring, not by a new library."""
    records = sample_crops(CropConfig(), b"cat/1.jpg", (375, 500), np.arange(4))
    assert records.box.tolist() == [
        [181, 181, 151, 162],
        [71, 101, 284, 293],
        [124, 105, 212, 199],
        [10, 123, 347, 374],
    ]
    assert records.flip.tolist() == [True, True, True, False]


def test_golden_crops_of_labels():
    """They identify an image by checksum and length of its file."""
    content = content_key(0xDEADBEEF, 110_000)
    assert content == struct.pack("<IQ", 0xDEADBEEF, 110_000)
    records = sample_crops(CropConfig(), content, (375, 500), np.arange(4))
    assert records.box.tolist() == [
        [197, 175, 147, 190],
        [102, 104, 173, 167],
        [13, 178, 244, 298],
        [7, 114, 289, 318],
    ]
    assert records.flip.tolist() == [False, False, False, True]
    streams = content_streams(0, np.array([0xDEADBEEF], np.uint32), np.array([110_000]))
    assert streams.tolist() == [stream_key(0, content)]


def test_a_crop_does_not_depend_on_its_neighbors():
    config = CropConfig()
    all_crops = sample_crops(config, b"k", (60, 80), np.arange(10))
    some = sample_crops(config, b"k", (60, 80), np.array([7, 2]))
    np.testing.assert_array_equal(some.box, all_crops.box[[7, 2]])
    np.testing.assert_array_equal(some.flip, all_crops.flip[[7, 2]])


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5),
    st.sampled_from([(0.08, 1.0), (1.0, 1.0)]),
)
@settings(max_examples=50, deadline=None)
def test_many_images_at_once_give_the_crops_of_each_alone(sizes, scale):
    config = CropConfig(seed=3, scale=scale)
    keys = [b"%d.jpg" % i for i in range(len(sizes))]
    numbers = np.arange(3) + 10 * np.arange(len(sizes))[:, None]
    box, flip = sample_boxes(config, stream_keys(3, keys), sizes, numbers)
    for i, key in enumerate(keys):
        alone = sample_crops(config, key, sizes[i], numbers[i])
        np.testing.assert_array_equal(box[i], alone.box)
        np.testing.assert_array_equal(flip[i], alone.flip)


def test_crops_drawn_before_the_size_is_known_are_the_same():
    config, streams = CropConfig(), stream_keys(0, [b"a", b"b"])
    draws = draw_crops(streams[:, None], np.arange(4))
    box, flip = sample_boxes(config, streams, [(60, 90), (400, 30)], np.tile(np.arange(4), (2, 1)))
    for i, size in enumerate([(60, 90), (400, 30)]):
        later = place_crops(config, draws[i], size)
        np.testing.assert_array_equal(later[0], box[i])
        np.testing.assert_array_equal(later[1], flip[i])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", (0.0, 1.0)),
        ("scale", (0.9, 0.5)),
        ("ratio", (2.0, 1.0)),
        ("flip_prob", 1.5),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        CropConfig(**{field: value})
