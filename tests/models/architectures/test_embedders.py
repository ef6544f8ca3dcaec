"""Self-supervised networks: published sizes, unit vectors, and the authors' checkpoints."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from fkd.models.architectures.embedders import (
    Embedder,
    MlpHead,
    PrototypeHead,
    WideResNet50,
    rename_published,
)
from tests.models.published import as_moco, as_swav


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes_of_swav_four_times_as_wide():
    with torch.device("meta"):
        network = timm.create_model("swav_resnet50w4")
    assert network.backbone.conv1.out_channels == 256
    assert count(network.backbone) == 375_378_176
    assert count(network.head.projection) == 68_182_144
    assert count(network.head.prototypes) == 384_000


def test_published_size_of_moco_v2():
    with torch.device("meta"):
        network = timm.create_model("moco_v2_resnet50")
    assert count(network.backbone) == 23_508_032
    assert count(network.head) == 2048 * 2048 + 2048 + 2048 * 128 + 128


@pytest.mark.parametrize(("wide", "outputs"), [("w2", 3000), ("w5", 3000)])
def test_other_widths_can_be_built(wide, outputs):
    with torch.device("meta"):
        assert timm.create_model(f"swav_resnet50{wide}").num_classes == outputs


def test_of_single_width_it_is_torchvisions_resnet50():
    torch.manual_seed(0)
    ours, theirs = WideResNet50(1), torchvision.models.resnet50()
    theirs.fc = torch.nn.Identity()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def small(head) -> Embedder:
    torch.manual_seed(0)
    return Embedder(timm.create_model("test_resnet", num_classes=0), head).eval()


def test_an_mlp_head_gives_unit_vectors():
    backbone = timm.create_model("test_resnet", num_classes=0)
    network = small(MlpHead(backbone.num_features, dim=16))
    with torch.no_grad():
        embedding = network(torch.randn(3, 3, 64, 64))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    assert network.num_classes == embedding.shape[1] == 16


def test_a_prototype_head_gives_cosines():
    features = timm.create_model("test_resnet", num_classes=0).num_features
    network = small(PrototypeHead(features, dim=8, num_prototypes=20))
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        cosines = network(images)
        z = network.head.projection(network.backbone(images))
    expected = F.cosine_similarity(z[:, None], network.head.prototypes.weight[None], dim=2)
    torch.testing.assert_close(cosines, expected)
    with torch.no_grad():
        network.head.prototypes.weight.mul_(7)
        torch.testing.assert_close(network(images), cosines)


@pytest.mark.parametrize(("layout", "kind"), [(as_moco, MlpHead), (as_swav, PrototypeHead)])
def test_checkpoints_of_the_authors_load(layout, kind):
    network = small(kind(timm.create_model("test_resnet", num_classes=0).num_features))
    renamed = rename_published(layout(network))
    expected = network.state_dict()
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in renamed.items())


def test_other_checkpoints_stay_as_they_are():
    state = timm.create_model("test_resnet").state_dict()
    assert rename_published(state).keys() == state.keys()
