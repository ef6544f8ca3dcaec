"""Accuracy: the right images, the right classes, the right center."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, ImageError
from fkd.evaluation.accuracy import LabeledImages, center_crop, measure_accuracy
from fkd.models.preprocessing import Preprocessing

LOOK = Preprocessing(
    input_size=16, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=0.875
)


class ColorModel(nn.Module):
    """Class c is the brightest channel; further classes are guessed last, and in order."""

    def __init__(self, num_classes, shift=0):
        super().__init__()
        self.num_classes, self.shift = num_classes, shift

    def forward(self, images):
        scores = images.mean((2, 3)).roll(self.shift, 1)
        rest = -1.0 - torch.arange(self.num_classes - 3)
        return torch.cat([scores, rest.expand(len(images), -1)], 1)


def measure(model, images, **options):
    return measure_accuracy(model, images, LOOK, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_model_that_knows_colors_is_always_right(image_source, num_workers):
    images = LabeledImages.match(image_source, ["ant", "bee", "cat", "dog"])
    accuracy = measure(ColorModel(4), images, batch_size=4, num_workers=num_workers)
    assert (accuracy.top1, accuracy.top5) == (100.0, 100.0)
    assert (accuracy.num_images, accuracy.num_skipped) == (15, 0)


def test_classes_are_matched_by_name_not_by_position(image_source):
    images = LabeledImages.match(image_source, ["cat", "ant", "bee"])
    assert measure(ColorModel(3), images).top1 == 0.0
    assert measure(ColorModel(3, shift=1), images).top1 == 100.0


def test_with_many_classes_five_guesses_count(image_source):
    images = LabeledImages.match(image_source, ["x", "y", "z", "u", "v", "ant", "bee", "cat"])
    accuracy = measure(ColorModel(8), images)
    assert accuracy.top1 == 0.0
    assert accuracy.top5 == 0.0
    images = LabeledImages.match(image_source, ["x", "ant", "bee", "cat", "u", "v", "w", "z"])
    assert measure(ColorModel(8), images).top5 == 100.0


def test_images_of_unknown_classes_are_left_out_and_counted(image_source):
    images = LabeledImages.match(image_source, ["ant", "bee"])
    assert images.num_skipped == 5
    assert measure(ColorModel(3), images).num_images == 10


def test_images_without_a_known_class_are_refused(image_source, image_folder):
    with pytest.raises(ConfigError, match=r"none of the classes .* \(ant, bee, cat\) is known"):
        LabeledImages.match(image_source, ["n01", "n02"])
    flat = open_source(ImagesConfig(root=str(image_folder), format="flat"))
    with pytest.raises(ConfigError, match="has no classes"):
        LabeledImages.match(flat, ["ant"])


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (18, 18), (9, 30)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_the_center_is_that_of_torchvision(size, crop_pct):
    draw = np.random.default_rng(0)
    pixels = torch.from_numpy(draw.integers(0, 256, (3, *size), dtype=np.uint8))
    look = Preprocessing(
        input_size=16, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=crop_pct
    )
    expected = v2.CenterCrop(16)(v2.Resize(int(16 / crop_pct), antialias=True)(pixels))
    difference = center_crop(pixels, look).int() - expected.int()
    assert difference.abs().max() <= 1


def test_the_model_ends_in_evaluation_mode_and_unchanged(image_source):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, LabeledImages.match(image_source, ["ant", "bee", "cat"]))
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named(tmp_path, num_workers):
    (tmp_path / "ant").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "ant/good.png")
    (tmp_path / "ant/bad.png").write_bytes(b"no picture")
    images = LabeledImages.match(open_source(ImagesConfig(root=str(tmp_path))), ["ant", "b", "c"])
    with pytest.raises(ImageError, match=r"bad\.png") as caught:
        measure(ColorModel(3), images, num_workers=num_workers)
    assert "\n" not in str(caught.value)


def test_folders_called_by_numbers_are_ids_on_request(make_images, tmp_path):
    root = make_images(tmp_path / "images", ["2", "10", "0"])  # red, green, blue
    names = [f"class {i}" for i in range(11)]
    with pytest.raises(ConfigError, match=r"ids of the model's classes, set images\.classes by_n"):
        LabeledImages.match(open_source(ImagesConfig(root=str(root))), names)
    source = open_source(ImagesConfig(root=str(root), classes="by_number"))
    images = LabeledImages.match(source, names)
    assert sorted(set(images.labels.tolist())) == [0, 2, 10]
    first = [source.key(int(i)).split(b"/")[0] for i in images.chosen]
    assert [int(name) for name in first] == images.labels.tolist()
