"""Features of images are computed once, and again when anything that they depend on changes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError, ImageError, RunError
from fkd.evaluation import features
from fkd.evaluation.accuracy import center_crop
from fkd.evaluation.features import FeatureRequest, load_or_compute
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
    found = load_or_compute(request_, None, device=CPU, batch_size=4, num_workers=num_workers)
    crops = [center_crop(load(request_.source, i).image, LOOK) for i in range(15)]
    with torch.no_grad():
        expected = request_.network.eval()(LOOK.normalize(torch.stack(crops)))
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


def passes_of(request) -> int:
    """Forward passes so far."""
    return request.network.passes


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(features, "IMAGES_PER_PART", 4)


def parts_of(folder) -> list:
    return sorted(folder.glob("*/*.safetensors"))


def test_they_are_computed_once(request_, tmp_path):
    first = load_or_compute(request_, tmp_path / "a" / "b", device=CPU)
    assert passes_of(request_) == len(parts_of(tmp_path / "a" / "b")) == 4
    assert torch.equal(load_or_compute(request_, tmp_path / "a" / "b", device=CPU), first)
    assert passes_of(request_) == 4
    assert torch.equal(load_or_compute(request_, None, device=CPU), first)


def test_a_killed_extraction_goes_on(request_, tmp_path):
    """After the last part that is complete; what comes out is the same."""
    expected = load_or_compute(request_, None, device=CPU)
    passes, limit = request_.network.passes, request_.network.passes + 2

    def stop(crops):
        if request_.network.passes >= limit:
            raise KeyboardInterrupt

    hook = request_.network.register_forward_pre_hook(lambda network, inputs: stop(inputs))
    with pytest.raises(KeyboardInterrupt):
        load_or_compute(request_, tmp_path, device=CPU)
    hook.remove()
    assert len(parts_of(tmp_path)) == 2
    done = []
    found = load_or_compute(request_, tmp_path, device=CPU, progress=done.append)
    assert torch.equal(found, expected)
    assert request_.network.passes == passes + 4
    assert done == [8, 4, 3]


@pytest.mark.parametrize(
    "change", ["weights", "size", "mean", "name", "images", "bytes", "last bytes", "none"]
)
def test_they_are_computed_again_when_something_changes(request_, tmp_path, change, make_images):
    root = make_images(tmp_path / "images")
    request_ = replace(request_, source=open_source(ImagesConfig(root=str(root))))
    load_or_compute(request_, tmp_path / "cache", device=CPU)
    passes, other = passes_of(request_), Net()
    if change == "weights":
        with torch.no_grad():
            other.layer.bias[0] += 1
        request_ = replace(request_, network=other)
    elif change == "size":
        request_ = replace(request_, preprocessing=replace(LOOK, input_size=8))
    elif change == "mean":
        request_ = replace(request_, preprocessing=replace(LOOK, mean=(0.1, 0.2, 0.3)))
    elif change == "name":
        request_ = replace(request_, name="other")
    elif change == "images":
        (root / "bee" / "1.png").unlink()
        request_ = replace(request_, source=open_source(ImagesConfig(root=str(root))))
    elif change.endswith("bytes"):  # the same keys
        file = "cat/4.png" if change == "last bytes" else "ant/0.png"
        (root / file).write_bytes((root / "bee" / "0.png").read_bytes())
        request_ = replace(request_)
    expected = load_or_compute(request_, None, device=CPU)
    before = passes_of(request_)
    assert torch.equal(load_or_compute(request_, tmp_path / "cache", device=CPU), expected)
    assert (passes_of(request_) > before) == (change != "none")
    assert passes > 0


@pytest.mark.parametrize("damage", ["cut", "empty", "of another"])
def test_a_damaged_part_alone_is_computed_again(request_, tmp_path, damage):
    expected = load_or_compute(request_, tmp_path, device=CPU)
    parts = parts_of(tmp_path)
    content = {"cut": parts[1].read_bytes()[:-9], "empty": b"", "of another": parts[3].read_bytes()}
    parts[1].write_bytes(content[damage])
    assert torch.equal(load_or_compute(request_, tmp_path, device=CPU), expected)
    assert passes_of(request_) == 5


def test_sets_of_images_with_the_same_names_have_folders_of_their_own(
    request_, tmp_path, make_images
):
    """Else two sets called ant/0.png ... would take each other's place at every run."""
    for seed in (1, 2, 1, 2):
        root = tmp_path / str(seed)
        if not root.exists():
            make_images(root, seed=seed)
        source = open_source(ImagesConfig(root=str(root)))
        load_or_compute(replace(request_, source=source), tmp_path / "cache", device=CPU)
    assert passes_of(request_) == 8


@pytest.mark.parametrize("place", ["file", "below a file"])
def test_features_that_cannot_be_written_end_with_a_way_out(request_, tmp_path, place):
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / ("x" if place == "below a file" else "")
    with pytest.raises(RunError, match=r"out: .* cannot be written to: .*--out null"):
        load_or_compute(request_, folder, device=CPU)


def test_features_that_are_not_finite_name_the_image(request_):
    with torch.no_grad():
        request_.network.layer.bias[2] = torch.nan
    with pytest.raises(ConfigError, match=r"features of .*ant/0\.png by network are not finite"):
        load_or_compute(request_, None, device=CPU)


def test_progress_counts_images(request_):
    done = []
    load_or_compute(request_, None, device=CPU, batch_size=4, progress=done.append)
    assert done == [0, 4, 4, 4, 3]


def test_an_unreadable_image_is_named(make_images, tmp_path):
    root = make_images(tmp_path / "images")
    (root / "bee" / "1.png").write_bytes(b"nothing")
    source = open_source(ImagesConfig(root=str(root)))
    with pytest.raises(ImageError, match=r"bee/1\.png"):
        load_or_compute(FeatureRequest(Net(), LOOK, source), None, device=CPU)
