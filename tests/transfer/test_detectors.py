"""Detectors: parameter counts, backbones from every source, and what is no plain ResNet."""

import json

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fkd.errors import ConfigError
from fkd.models.cards import ModelCard
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import default_preprocessing
from fkd.training.students import save_student
from fkd.transfer.coco import Category
from fkd.transfer.config import DetectorConfig
from fkd.transfer.detectors import (
    RESNETS,
    DetectorCard,
    build_detector,
    card_from_json,
    card_to_json,
    count_parameters,
    describe_card,
    load_backbone,
    load_detector,
    require_resnet,
)

CATEGORIES = tuple(Category(i, f"category{i}") for i in range(1, 91))  # with the background, 91


def card_of(kind="faster_rcnn", *, frozen=True, layers=3, backbone="resnet50") -> DetectorCard:
    return DetectorCard(
        kind=kind,
        backbone=backbone,
        frozen_norm=frozen,
        trainable_layers=layers,
        settings=DetectorConfig(),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.2, 0.2),
        categories=CATEGORIES,
    )


def load(name=None, checkpoint=None, *, pretrained=False, from_scratch=False):
    return load_backbone(
        name=name,
        checkpoint=None if checkpoint is None else str(checkpoint),
        pretrained=pretrained,
        from_scratch=from_scratch,
    )


@pytest.mark.parametrize(
    ("kind", "frozen", "everything", "trained"),
    [
        ("faster_rcnn", False, 41_808_406, None),
        ("mask_rcnn", False, 44_454_513, None),
        ("faster_rcnn", True, 41_755_286, 41_532_886),
        ("mask_rcnn", True, 44_401_393, 44_178_993),
    ],
)
def test_parameters_are_as_many_as_torchvision_counts(kind, frozen, everything, trained):
    with torch.device("meta"):
        network = build_detector(card_of(kind, frozen=frozen), None)
    counted = count_parameters(network)
    assert counted[0] == everything
    if trained is not None:
        assert counted[1] == trained


@pytest.mark.parametrize("name", RESNETS)
def test_both_libraries_build_the_backbones_alike(name):
    with torch.device("meta"):
        ours, theirs = timm.create_model(name), torchvision.models.get_model(name)
    shapes = [{n: v.shape for n, v in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    strides = [
        {n: m.stride for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
        for net in (ours, theirs)
    ]
    assert strides[0] == strides[1]


@pytest.mark.parametrize(
    "name",
    ["resnet50d", "seresnet50", "resnet50_gn", "resnetrs50", "vit_tiny_patch16_224", "test_resnet"],
)
def test_other_networks_are_refused(name):
    with pytest.raises(ConfigError, match=f"backbone: {name} is no plain ResNet .* use resnet18"):
        require_resnet(name)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=5)


@pytest.fixture(scope="module")
def run_folder(student, tmp_path_factory):
    """As `fkd train` leaves it, with a normalization of its own."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    preprocessing = default_preprocessing(parse_model_name("resnet18")).changed(mean=[0.1] * 3)
    save_student(path, student, ModelCard("resnet18", 5, preprocessing), list("abcde"))
    return path


def prefixed(state):
    return {f"module.{name}": value for name, value in state.items()}


def headless(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("change", [dict, prefixed, headless])
def test_a_file_of_weights_becomes_the_body_of_a_detector(student, tmp_path, change):
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": change(student.state_dict())}, file)
    backbone = load("resnet18", file)
    network = build_detector(card_of(backbone="resnet18"), backbone.state)
    body = network.backbone.body.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = student.eval().forward_features(images)
        torch.testing.assert_close(body(images)["3"], expected)


def test_a_run_folder_says_what_it_is_of_and_how_colors_are_normalized(run_folder):
    backbone = load(None, run_folder)
    assert backbone.name == "resnet18"
    card = describe_card("mask_rcnn", backbone, DetectorConfig(), CATEGORIES)
    assert (card.frozen_norm, card.trainable_layers, card.mean) == (True, 3, (0.1, 0.1, 0.1))
    network = build_detector(card, backbone.state)
    assert network.transform.image_mean == [0.1, 0.1, 0.1]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.backbone.modules())
    trained = {
        n.split(".")[0] for n, p in network.backbone.body.named_parameters() if p.requires_grad
    }
    assert trained == {"layer2", "layer3", "layer4"}
    frozen = network.backbone.body.bn1
    assert isinstance(frozen, FrozenBatchNorm2d)
    assert torch.equal(frozen.running_var, backbone.state["bn1.running_var"])
    with pytest.raises(ConfigError, match="is of resnet18, not resnet50"):
        load("resnet50", run_folder)


def test_a_student_of_embeddings_has_no_classifier_to_drop(tmp_path):
    network = timm.create_model("resnet18", num_classes=0)
    preprocessing = default_preprocessing(parse_model_name("resnet18"))
    save_student(tmp_path, network, ModelCard("resnet18", 0, preprocessing), [])
    backbone = load(None, tmp_path)
    assert backbone.origin == str(tmp_path)
    build_detector(card_of(backbone="resnet18"), backbone.state)


def test_random_weights_are_trained_in_all_layers_with_batch_norm():
    backbone = load("torchvision/resnet18", from_scratch=True)
    assert (backbone.state, backbone.sha256) == (None, None)
    card = describe_card("faster_rcnn", backbone, DetectorConfig(), CATEGORIES)
    assert (card.frozen_norm, card.trainable_layers) == (False, 5)
    network = build_detector(card, None)
    assert all(p.requires_grad for p in network.parameters())
    settings = DetectorConfig(trainable_layers=2)
    assert describe_card("faster_rcnn", backbone, settings, CATEGORIES).trainable_layers == 2


def test_a_network_changed_by_arguments_is_refused(tmp_path):
    network = timm.create_model("resnet18", num_classes=5, output_stride=16)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 5, "model_args": {"output_stride": 16}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="built with arguments that change its layer4"):
        load(None, tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="does not fit the model"):
        load("resnet18", tmp_path / "weights.pth")
    state = timm.create_model("resnet34").state_dict()
    with pytest.raises(ConfigError, match="backbone: the weights do not fit"):
        build_detector(card_of(backbone="resnet18"), headless(state))


def test_a_card_is_read_back():
    card = card_of()
    assert card_from_json(json.dumps(card_to_json(card)), "detector.json") == DetectorCard(
        **{**vars(card), "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}', '{"settings": {"a": 1}}'])
def test_a_damaged_card_is_refused(text):
    with pytest.raises(ConfigError, match=r"detector.json is damaged .* train the detector again"):
        card_from_json(text, "detector.json")


def test_only_a_finished_run_can_be_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"has no detector\.json; give a finished run"):
        load_detector(tmp_path)
