"""Projection heads from files: any backbone and head is a teacher."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.errors import ConfigError
from fkd.models.architectures.embedders import Embedder, MlpHead, PrototypeHead
from fkd.models.heads import load_head
from fkd.models.teacher import TeacherConfig, load_teachers
from tests.models.published import as_moco, as_swav

D = 12


def head_of(kind):
    torch.manual_seed(0)
    return MlpHead(D, 5) if kind is MlpHead else PrototypeHead(D, 9, 5, 20)


def embedder(kind):
    backbone = timm.create_model("test_resnet", num_classes=0)
    backbone.num_features = D  # of no interest but for the names
    return Embedder(backbone, head_of(kind))


@pytest.mark.parametrize("kind", [MlpHead, PrototypeHead])
@pytest.mark.parametrize("names", ["own", "in a network", "authors'"])
def test_every_layout_gives_the_same_head(kind, names, tmp_path):
    head = head_of(kind)
    state = head.state_dict()
    if names == "in a network":
        state = {f"head.{key}": value for key, value in state.items()}
    elif names == "authors'":
        state = (as_moco if kind is MlpHead else as_swav)(embedder(kind))
    torch.save({"state_dict": state}, tmp_path / "head.pth")
    loaded = load_head(str(tmp_path / "head.pth"), D, "net")
    features = torch.randn(3, D)
    assert type(loaded) is kind
    with torch.no_grad():
        assert torch.equal(loaded.eval()(features), head.eval()(features))


@pytest.mark.parametrize("kind", [MlpHead, PrototypeHead])
def test_a_head_for_other_features_is_refused(kind, tmp_path):
    save_file(head_of(kind).state_dict(), tmp_path / "x.safetensors")
    words = r"teacher\.head: .*x\.safetensors takes 12 features, and net gives 1,280; give a head"
    with pytest.raises(ConfigError, match=words):
        load_head(str(tmp_path / "x.safetensors"), 1280, "net")


@pytest.mark.parametrize("kind", [MlpHead, PrototypeHead])
def test_every_part_of_a_head_must_be_there_and_fit(kind, tmp_path):
    whole = head_of(kind).state_dict()
    file = tmp_path / "x.safetensors"
    for name in whole:
        rest = {key: value for key, value in whole.items() if key != name}
        save_file(rest, file)
        if name.endswith("num_batches_tracked"):
            load_head(str(file), D, "net")
            continue
        with pytest.raises(ConfigError, match=r"teacher\.head: .*x\.safetensors"):
            load_head(str(file), D, "net")
        save_file(rest | {name: torch.zeros(2, 3, 4)}, file)
        with pytest.raises(ConfigError, match=r"teacher\.head: .*x\.safetensors"):
            load_head(str(file), D, "net")
    save_file(whole | {"more": torch.zeros(1)}, file)
    with pytest.raises(ConfigError, match="more is unknown"):
        load_head(str(file), D, "net")


def test_other_files_are_no_heads(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"holds neither an MLP head .* nor a prototype head"):
        load_head(str(tmp_path / "x.safetensors"), D, "net")
    with pytest.raises(ConfigError, match=r"teacher\.head: .*absent does not exist"):
        load_head(str(tmp_path / "absent"), D, "net")


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "b.safetensors")
    return model, TeacherConfig(
        "test_resnet", checkpoint=str(tmp_path / "b.safetensors"), input_size=32, output="head"
    )


@pytest.mark.parametrize("kind", [MlpHead, PrototypeHead])
def test_a_backbone_and_a_head_are_a_teacher(kind, backbone, tmp_path):
    model, config = backbone
    torch.manual_seed(0)
    head = kind(model.num_features).eval()
    save_file(head.state_dict(), tmp_path / "h.safetensors")
    teachers = load_teachers([replace(config, head=str(tmp_path / "h.safetensors"))])
    (teacher,) = teachers.teachers
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        pixels = teacher.preprocessing.normalize(crops)
        expected = head(model.forward_head(model.forward_features(pixels), pre_logits=True))
    torch.testing.assert_close(teachers.logits([crops]), expected, rtol=1e-4, atol=1e-5)
    assert not teachers.is_classifier
    assert teacher.identity()["output"] == "head"
    save_file({k: 2 * v for k, v in head.state_dict().items()}, tmp_path / "h.safetensors")
    other = load_teachers([replace(config, head=str(tmp_path / "h.safetensors"))])
    assert other.identity()[0]["weights_sha256"] != teacher.identity()["weights_sha256"]


@pytest.mark.parametrize("output", ["features", "head"])
def test_a_temperature_of_embeddings_is_refused(output, backbone, tmp_path):
    _, config = backbone
    head = None
    if output == "head":
        head = str(tmp_path / "h.safetensors")
        save_file(MlpHead(backbone[0].num_features).state_dict(), head)
    with pytest.raises(ConfigError, match=rf"teacher\.temperature: the {output} of .* no softmax"):
        load_teachers([replace(config, output=output, head=head, temperature=2.0)])


def test_a_network_without_a_head_needs_a_file(backbone):
    with pytest.raises(
        ConfigError, match=r"test_resnet has no projection head; give a file .*head"
    ):
        load_teachers([backbone[1]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head": "x"}, r"teacher\.head: is not used with --teacher\.output logits"),
        ({"head": "x", "output": "features"}, "is not used with --teacher.output features"),
        ({"class_names": "x", "output": "features"}, r"teacher\.class_names: with .* features"),
        ({"class_names": "x", "output": "head"}, r"teacher\.class_names: with .* head"),
        ({"output": "classes"}, r"teacher\.output: 'classes' is none of logits, features, head"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TeacherConfig("test_resnet", **settings)
