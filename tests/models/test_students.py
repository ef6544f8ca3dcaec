"""Any network becomes a student of embeddings; its features and its head are kept apart."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from fkd.engine.optim import OptimizerConfig, build_optimizer
from fkd.errors import ConfigError
from fkd.models.cards import ModelCard
from fkd.models.features import PooledFeatures
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import default_preprocessing
from fkd.models.students import attach_head, load_head, network_of, split_state
from fkd.models.timm_config import describe_network
from fkd.models.zoo import load_model

NETWORKS = [
    ("test_resnet", 32),
    ("test_vit", 160),
    ("test_convnext", 32),
    ("torchvision/resnet18", 32),
    ("torchvision/mobilenet_v3_small", 32),
    ("reactnet_a", 32),
    ("deit_tiny_distilled_patch16_224", 224),
]
CROPS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def build(name="test_resnet", kind="mlp", outputs=24, size=32, **options):
    network = load_model(name, headless=True)
    return attach_head(network.model, kind, outputs, input_size=size, name=name, **options)


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_every_network_learns_with_all_its_weights(name, size):
    """A weight without a gradient would stop several processes from training together."""
    student = build(name, size=size)
    student(torch.randn(2, 3, size, size)).sum().backward()
    idle = [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_the_network_alone_gives_the_features_that_were_trained(name, size, tmp_path):
    student = build(name, size=size)
    network, head = split_state(student)
    assert head
    save_file({n: v.contiguous() for n, v in network.items()}, tmp_path / "w.safetensors")
    again = load_model(name, headless=True, checkpoint=str(tmp_path / "w.safetensors"))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = student.eval().backbone(images)
        assert torch.equal(PooledFeatures(again.model).eval()(images), expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "torchvision/resnet18"])
def test_a_network_without_a_head_starts_a_supervised_student(name, tmp_path):
    network, _ = split_state(build(name))
    path = str(tmp_path / "w.safetensors")
    save_file({n: v.contiguous() for n, v in network.items()}, path)
    with pytest.raises(ConfigError, match=r"has no head.*set new_head"):
        load_model(name, num_classes=5, checkpoint=path)
    student = load_model(name, num_classes=5, checkpoint=path, new_head=True)
    state = student.model.state_dict()
    assert all(torch.equal(state[n], value) for n, value in network.items())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "torchvision/resnet18"])
def test_a_student_of_embeddings_starts_from_a_classifier(name, tmp_path):
    classifier = load_model(name, num_classes=5).model.state_dict()
    save_file(classifier, tmp_path / "w.safetensors")
    network = load_model(name, headless=True, checkpoint=str(tmp_path / "w.safetensors"))
    for n, value in network.model.state_dict().items():
        assert value.numel() == 0 or torch.equal(value, classifier[n])


@pytest.mark.parametrize("kind", ["none", "mlp", "prototypes"])
def test_heads_give_what_they_are_named_after(kind):
    width = build().num_features
    student = build(kind=kind, outputs=width)
    embeddings = student.eval()(CROPS)
    assert embeddings.shape == (2, width)
    assert student.num_classes == width
    if kind == "mlp":
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    if kind == "prototypes":
        assert embeddings.abs().max() <= 1.0
    if kind == "none":
        assert torch.equal(embeddings, student.backbone(CROPS))
        assert split_state(student)[1] == {}


def test_the_widths_of_heads_are_those_asked_for():
    mlp = build(hidden=17).head.layers
    assert [mlp[0].out_features, mlp[2].in_features] == [17, 17]
    head = build(kind="prototypes", hidden=17, dim=9).head
    assert (head.projection[0].out_features, head.prototypes.in_features) == (17, 9)


def test_a_copy_of_a_student_is_a_network_of_its_own():
    """Moving averages of weights are kept in a copy."""
    for name in ("test_resnet", "torchvision/resnet18"):
        student = build(name).eval()
        other = copy.deepcopy(student)
        before = other(CROPS)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.zero_()
        assert torch.equal(other(CROPS), before)


def test_what_does_not_fit_is_said_in_one_sentence():
    with pytest.raises(ConfigError, match=r"student\.head none: student test_resnet has \d+ feat"):
        build(kind="none", outputs=24)
    model = load_model("moco_v2_resnet50").model
    with pytest.raises(ConfigError, match="moco_v2_resnet50 has a head of its own"):
        attach_head(model, "mlp", 8, input_size=32, name="moco_v2_resnet50")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_resnet", "reactnet_a"])
def test_weight_decay_spares_what_it_spares_in_the_network_itself(name):
    """Position embeddings, say; the names have a prefix in a student of embeddings."""
    network = load_model(name, headless=True).model
    plain = build_optimizer(OptimizerConfig(name="adamw"), network)
    student = build(name, kind="none", outputs=network.num_features, size=224)
    groups = build_optimizer(OptimizerConfig(name="adamw"), student).param_groups
    sizes = [[sum(p.numel() for p in group["params"]) for group in plain.param_groups]]
    assert sizes == [[sum(p.numel() for p in group["params"]) for group in groups]]


def test_a_head_is_taken_from_the_folder_of_a_run_alone(tmp_path):
    """A file called like it may lie beside weights of others."""
    student, other = build(), build()
    save_file(student.head.state_dict(), tmp_path / "head.safetensors")
    before = other.head.layers[0].weight.clone()
    load_head(other, str(tmp_path / "resnet.pth"))
    assert torch.equal(other.head.layers[0].weight, before)
    card = ModelCard("test_resnet", 0, default_preprocessing(parse_model_name("test_resnet")))
    for has_head in (False, True):
        config = describe_network(network_of(student), card, [], has_head=has_head)
        (tmp_path / "config.json").write_text(json.dumps(config))
        load_head(other, str(tmp_path))
        taken = torch.equal(other.head.layers[0].weight, student.head.layers[0].weight)
        assert taken == has_head
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"head\.safetensors cannot be read: no such file"):
        load_head(other, str(tmp_path))
