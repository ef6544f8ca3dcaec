import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import RandomResizedCrop

from fkd.augment import AugmentConfig
from fkd.crops import CropConfig, replay, sample_crops
from fkd.errors import ConfigError
from fkd.randomness import Purpose, stream_key, uniforms
from fkd.records import CropRecords


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
    config = CropConfig(num_crops=6, seed=seed, scale=scale)
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


def test_a_crop_does_not_depend_on_its_neighbours():
    config = CropConfig()
    all_crops = sample_crops(config, b"k", (60, 80), np.arange(10))
    some = sample_crops(config, b"k", (60, 80), np.array([7, 2]))
    np.testing.assert_array_equal(some.box, all_crops.box[[7, 2]])
    np.testing.assert_array_equal(some.flip, all_crops.flip[[7, 2]])


@pytest.mark.parametrize(
    ("mode", "pillow"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_replayed_pixels_are_pillows_on_a_photograph(mode, pillow):
    """Mean below 0.25 grey levels, and 99.9 % of the pixels within 2, for every crop."""
    photo = load_sample_image("china.jpg")
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    records = sample_crops(CropConfig(), b"china", photo.shape[:2], np.arange(12))
    crops = replay(image, records, 224, mode)
    assert crops.shape == (12, 3, 224, 224)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for crop, (top, left, h, w), flip in zip(crops, records.box, records.flip, strict=True):
        cut = Image.fromarray(photo[top : top + h, left : left + w])
        expected = np.asarray(cut.resize((224, 224), pillow)).astype(int)
        expected = expected[:, ::-1] if flip else expected
        difference = np.abs(crop.permute(1, 2, 0).numpy().astype(int) - expected)
        assert difference.mean() < 0.25
        assert (difference <= 2).mean() > 0.999


def test_the_flip_follows_the_crop():
    """Hazard 10: a box refers to the image before the flip."""
    image = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 6).repeat(3, 1, 1)
    records = CropRecords(np.array([[1, 2, 3, 4], [1, 2, 3, 4]]), np.array([False, True]))
    plain, mirrored = replay(image, records, (3, 4), "bilinear")
    assert torch.equal(plain, image[:, 1:4, 2:6])
    assert torch.equal(mirrored, image[:, 1:4, 2:6].flip(-1))


def test_memory_layout_does_not_change_pixels():
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    records = sample_crops(CropConfig(), b"k", (50, 70), np.arange(5))
    channels_last = image.contiguous().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for mode in ("bilinear", "bicubic"):
        assert torch.equal(
            replay(image, records, 32, mode), replay(channels_last, records, 32, mode)
        )


def test_records_reshape_index_and_stack_together():
    augment = AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.1))
    records = sample_crops(CropConfig(), b"k", (50, 70), np.arange(6), augment)
    grid = records.reshape(2, 3)
    assert grid.shape == (2, 3)
    assert grid.extra["jitter"].shape == (2, 3, 4)
    again = CropRecords.stack([grid[0], grid[1]]).reshape(6)
    np.testing.assert_array_equal(again.box, records.box)
    np.testing.assert_array_equal(again.extra["jitter"], records.extra["jitter"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_crops", 0),
        ("scale", (0.0, 1.0)),
        ("scale", (0.9, 0.5)),
        ("ratio", (2.0, 1.0)),
        ("flip_prob", 1.5),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        CropConfig(**{field: value})
