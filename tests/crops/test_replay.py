import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image

from fkd.crops.augment import AugmentConfig
from fkd.crops.records import CropRecords
from fkd.crops.replay import replay, sample_crops
from fkd.crops.sampling import CropConfig


@pytest.mark.parametrize(
    ("mode", "pillow"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_replayed_pixels_are_pillows_on_a_photograph(mode, pillow):
    """Mean below 0.25 gray levels, and 99.9 % of the pixels within 2, for each crop."""
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


def resize_twice(image, first, mode):
    """Exact values of one direction after the other, rounded and clipped to bytes in between."""
    for size in (first, (224, 224)):
        image = F.interpolate(image.double(), size, mode=mode, antialias=True)
        image = image.round().clamp(0, 255)
    return image[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("mode", "pillow", "apart"),
    [("bilinear", Image.Resampling.BILINEAR, 2), ("bicubic", Image.Resampling.BICUBIC, 32)],
)
def test_a_tall_crop_of_high_contrast_is_clipped_in_between(mode, pillow, apart):
    """Torch resizes it horizontally first, Pillow 13 vertically; bicubic overshoots, so that it
    matters what is clipped. Bilinear does not."""
    noise = np.random.default_rng(0).integers(0, 2, (700, 150, 1), dtype=np.uint8) * 255
    photo = np.repeat(noise, 3, axis=2)
    image = torch.from_numpy(photo).permute(2, 0, 1)
    records = CropRecords(np.array([[0, 0, 700, 150]]), np.array([False]))
    crop = replay(image, records, 224, mode)[0].permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(photo).resize((224, 224), pillow)).astype(int)
    assert np.abs(crop - resize_twice(image[None], (700, 224), mode)).max() <= 2
    assert np.abs(crop - theirs).max() <= apart
    if mode == "bicubic" and int(PIL.__version__.partition(".")[0]) >= 13:
        assert np.abs(theirs - resize_twice(image[None], (224, 150), mode)).max() <= 2
        assert np.abs(crop - theirs).max() > 15


def test_the_flip_follows_the_crop():
    """Hazard 10: a box refers to the image before the flip."""
    image = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 6).repeat(3, 1, 1)
    records = CropRecords(np.array([[1, 2, 3, 4], [1, 2, 3, 4]]), np.array([False, True]))
    plain, flipped = replay(image, records, (3, 4), "bilinear")
    assert torch.equal(plain, image[:, 1:4, 2:6])
    assert torch.equal(flipped, image[:, 1:4, 2:6].flip(-1))


def test_memory_layout_does_not_change_pixels():
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    records = sample_crops(CropConfig(), b"k", (50, 70), np.arange(5))
    channels_last = image.contiguous().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for mode in ("bilinear", "bicubic"):
        assert torch.equal(
            replay(image, records, 32, mode), replay(channels_last, records, 32, mode)
        )


def test_records_index_and_stack_together():
    augment = AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.1))
    records = sample_crops(CropConfig(), b"k", (50, 70), np.arange(6), augment)
    grid = CropRecords.stack([records[:3], records[3:]])
    assert grid.shape == (2, 3)
    assert grid.extra["jitter"].shape == (2, 3, 4)
    np.testing.assert_array_equal(grid[1, 2].box, records[5].box)
    np.testing.assert_array_equal(grid[1].extra["jitter"], records[3:].extra["jitter"])
