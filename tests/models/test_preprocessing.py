"""Preprocessing comes from the network's own configuration."""

import pytest
import torch
from torchvision.models import ResNet50_Weights
from torchvision.transforms import Compose, Normalize, ToTensor

from fkd.errors import ConfigError
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import Preprocessing, default_preprocessing, has_fixed_input_size

PLAIN = Preprocessing(
    input_size=8,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.2, 0.3, 0.4),
    crop_pct=0.9,
)


def test_timm_network_that_is_not_normalized_like_the_others():
    """With the usual ImageNet figures this teacher loses ten points, and nothing crashes."""
    found = default_preprocessing(parse_model_name("tf_efficientnet_lite0"))
    assert found == Preprocessing(
        input_size=224, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )


def test_tags_have_their_own_figures():
    large = default_preprocessing(parse_model_name("tf_efficientnet_l2.ns_jft_in1k_475"))
    assert large.input_size == 475


@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_torchvision_weights_bring_their_own(tag):
    found = default_preprocessing(parse_model_name(f"torchvision/resnet50.{tag}"))
    theirs = ResNet50_Weights[tag].transforms()
    assert (found.input_size, found.interpolation) == (224, theirs.interpolation.value)
    assert (list(found.mean), list(found.std)) == (theirs.mean, theirs.std)
    assert found.crop_pct == 224 / theirs.resize_size[0]


def test_fixed_input_sizes_are_known():
    assert has_fixed_input_size(parse_model_name("vit_tiny_patch16_224"))
    assert not has_fixed_input_size(parse_model_name("resnet18"))
    assert not has_fixed_input_size(parse_model_name("torchvision/resnet18"))


def test_input_that_is_not_square_is_refused():
    with pytest.raises(ConfigError, match="only squares are cut"):
        default_preprocessing(parse_model_name("vit_base_patch16_sapiens2"))


def test_normalize_is_torchvisions_to_the_last_bit():
    crops = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    theirs = Compose([ToTensor(), Normalize(PLAIN.mean, PLAIN.std)])
    expected = torch.stack([theirs(crop.permute(1, 2, 0).numpy()) for crop in crops])
    found = PLAIN.normalize(crops)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert crops.dtype == torch.uint8


def test_json_round_trip():
    assert Preprocessing.from_json(PLAIN.to_json()) == PLAIN


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("input_size", 0, "input_size"),
        ("input_size", "x", "invalid literal"),
        ("interpolation", "nearest", "interpolation: 'nearest' is none of bilinear, bicubic"),
        ("mean", [0.5], "field"),
        ("mean", [0.5, 0.5, float("nan")], "mean"),
        ("std", [0.5, 0.0, 0.5], "std must be three positive numbers"),
        ("crop_pct", 0, "crop_pct"),
    ],
)
def test_impossible_figures_are_refused(field, value, words):
    with pytest.raises(ConfigError, match=words):
        Preprocessing.from_json({**PLAIN.to_json(), field: value})


def test_missing_figure_is_named():
    fields = PLAIN.to_json()
    del fields["std"]
    with pytest.raises(ConfigError, match="'std'"):
        Preprocessing.from_json(fields)
