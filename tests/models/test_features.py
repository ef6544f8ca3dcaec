"""Pooled features are what the classifier is applied to."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from fkd.errors import ConfigError
from fkd.models.architectures.embedders import Embedder, MlpHead
from fkd.models.features import PooledFeatures

TIMM = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "reactnet_a"]
TORCHVISION = ["mobilenet_v3_small", "resnet18", "squeezenet1_0"]


@pytest.mark.parametrize("name", TIMM)
def test_the_classifier_of_the_features_gives_the_logits(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    size = model.default_cfg["input_size"][-1] if name == "test_vit" else 64
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = PooledFeatures(model)(images)
        torch.testing.assert_close(model.get_classifier()(features), model(images))
    assert features.shape == (2, PooledFeatures(model).count(size))


@pytest.mark.parametrize("name", TIMM[:3])
def test_a_network_without_a_head_gives_them_as_it_is(name):
    model = timm.create_model(name, num_classes=0).eval()
    size = model.default_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(PooledFeatures(model)(images), model(images))


@pytest.mark.parametrize("name", TORCHVISION[:2])
def test_the_last_linear_layer_of_torchvision_takes_them(name):
    model = torchvision.models.get_model(name).eval()
    images = torch.randn(2, 3, 64, 64)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(head(PooledFeatures(model)(images)), model(images))


def test_an_embedder_has_those_of_its_backbone():
    backbone = timm.create_model("test_resnet", num_classes=0)
    model = Embedder(backbone, MlpHead(backbone.num_features)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(PooledFeatures(model)(images), backbone(images))


def test_counting_leaves_the_mode_alone():
    model = timm.create_model("test_resnet").train()
    PooledFeatures(model).count(64)
    assert model.training


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ConfigError, match="squeezenet has no linear classifier"):
        PooledFeatures(torchvision.models.get_model("squeezenet1_0"), "squeezenet")
