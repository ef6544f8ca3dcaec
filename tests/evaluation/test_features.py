"""Features of images are computed once, and again when anything that they depend on changes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ImageError
from fkd.evaluation.accuracy import center_crop
from fkd.evaluation.features import FeatureRequest, compute_features, load_or_compute
from fkd.models.preprocessing import Preprocessing

LOOK = Preprocessing(
    input_size=16, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.875
)
CPU = torch.device("cpu")


class Net(nn.Module):
    """Counts its passes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 5)
        self.passes = 0

    def forward(self, images):
        assert not self.training
        self.passes += 1
        return self.layer(images.mean((2, 3)))


@pytest.fixture
def request_(image_source):
    return FeatureRequest(Net(), LOOK, image_source)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_features_are_those_of_the_center_crops_in_order(request_, num_workers):
    found = compute_features(request_, device=CPU, batch_size=4, num_workers=num_workers)
    crops = [center_crop(load(request_.source, i).image, LOOK) for i in range(15)]
    with torch.no_grad():
        expected = request_.network.eval()(LOOK.normalize(torch.stack(crops)))
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


def test_they_are_computed_once(request_, tmp_path):
    cache = tmp_path / "cache" / "features.safetensors"
    first = load_or_compute(request_, cache, device=CPU)
    passes = request_.network.passes
    assert torch.equal(load_or_compute(request_, cache, device=CPU), first)
    assert request_.network.passes == passes


@pytest.mark.parametrize("change", ["weights", "size", "images", "damage", "none"])
def test_they_are_computed_again_when_something_changes(
    request_, tmp_path, change, make_images, image_source
):
    cache = tmp_path / "features.safetensors"
    load_or_compute(request_, cache, device=CPU)
    passes = request_.network.passes
    if change == "weights":
        with torch.no_grad():
            request_.network.layer.bias[0] += 1
    elif change == "size":
        request_ = replace(request_, preprocessing=replace(LOOK, input_size=8))
    elif change == "images":
        root = make_images(tmp_path / "others", per_class=2)
        request_ = replace(request_, source=open_source(ImagesConfig(root=str(root))))
    elif change == "damage":
        cache.write_bytes(cache.read_bytes()[:-9])
    load_or_compute(request_, cache, device=CPU)
    assert (request_.network.passes > passes) == (change != "none")


def test_progress_counts_images(request_):
    done = []
    compute_features(request_, device=CPU, batch_size=4, progress=done.append)
    assert done == [4, 4, 4, 3]


def test_an_unreadable_image_is_named(make_images, tmp_path):
    root = make_images(tmp_path / "images")
    (root / "bee" / "1.png").write_bytes(b"nothing")
    source = open_source(ImagesConfig(root=str(root)))
    with pytest.raises(ImageError, match=r"bee/1\.png"):
        compute_features(FeatureRequest(Net(), LOOK, source), device=CPU)
