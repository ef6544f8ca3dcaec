"""A model by one word: folders, names, and what is neither."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.errors import ConfigError
from fkd.models.features import PooledFeatures
from fkd.models.lookup import find_backbone, find_model
from fkd.models.zoo import build_model


@pytest.fixture
def save(tmp_path):
    def save_weights(model) -> str:
        file = tmp_path / "weights.safetensors"
        save_file(model.state_dict(), file)
        return str(file)

    return save_weights


@pytest.mark.parametrize(
    ("name", "num_classes", "width"),
    [
        ("test_vit", 0, 64),
        ("test_vit", 7, 64),
        ("test_resnet", 7, 96),
        ("torchvision/shufflenet_v2_x0_5", None, 1024),
        ("moco_v2_resnet50", None, 2048),
    ],
)
def test_a_backbone_needs_no_classifier_and_uses_none(save, name, num_classes, width):
    torch.manual_seed(0)
    options = {} if num_classes is None else {"num_classes": num_classes}
    weights = save(build_model(name, **options))
    loaded = find_backbone(name, weights)
    assert PooledFeatures(loaded.model, name).count(64) == width


def test_a_folder_has_weights_of_its_own(save, tmp_path):
    weights = save(timm.create_model("test_vit"))
    with pytest.raises(ConfigError, match="has its own weights; leave the checkpoint out"):
        find_model(str(tmp_path), weights)


@pytest.mark.parametrize("find", [find_model, find_backbone])
def test_a_folder_without_weights_is_refused_as_the_model(find, tmp_path):
    """The user gave no checkpoint, and a file of weights would be refused in its place."""
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        find(str(tmp_path))
    assert str(caught.value) == (
        f"model: folder {tmp_path} has no model.safetensors; give the folder of a finished run, or "
        "a model name"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs/mine", "there is no folder runs/mine here, and no network of that name"),
        ("resnet5", "did you mean resnet50"),
        ("torchvision/nothing", "there is no folder torchvision/nothing here"),
    ],
)
def test_what_is_neither_is_refused(model, message):
    with pytest.raises(ConfigError) as caught:
        find_model(model)
    assert message in str(caught.value)
