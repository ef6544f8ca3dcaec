"""Checkpoints in the authors' layouts: teachers and students by name, from the authors' files."""

import pytest
import timm
import torch
import torchvision

from fkd.errors import ConfigError
from fkd.models.architectures import embedders
from fkd.models.architectures.embedders import MlpHead
from fkd.models.features import PooledFeatures
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.zoo import build_model, load_model
from tests.models.published import as_moco, as_reactnet, as_swav

IMAGES = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LAYOUTS = {
    "moco_v2_resnet50": (as_moco, {"epoch": 800, "arch": "resnet50", "optimizer": {"state": {}}}),
    "swav_resnet50": (as_swav, None),
    "swav_resnet50w2": (as_swav, None),  # w4 and w5 differ in widths alone
    "reactnet_a": (lambda network: as_reactnet(network, flat=True), {"best_top1_acc": 69.4}),
    "reactnet_a_step1": (lambda network: as_reactnet(network, unused=True), {"epoch": 1}),
}


@pytest.fixture(autouse=True, scope="module")
def small_resnet():
    """One block in the place of three to six; names, widths and heads stay ResNet-50's."""
    create = timm.create_model

    def create_small(name, **options):
        return create(name, **({"layers": (1, 1, 1, 1)} if name == "resnet50" else {}) | options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders, "_LAYERS", (1, 1, 1, 1))
        patch.setattr(embedders.timm, "create_model", create_small)
        yield


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: timm.create_model(name).eval() for name in LAYOUTS}


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
    """The file of each network, as its authors have written it."""
    folder = tmp_path_factory.mktemp("authors")
    for name, (layout, beside) in LAYOUTS.items():
        state = layout(networks[name])
        if "reactnet" in name:
            state = {f"module.{key}": value for key, value in state.items()}
        document = state if beside is None else beside | {"state_dict": state}
        torch.save(document, folder / f"{name}.pth.tar")
    return folder


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_file_gives_what_the_network_gave(name, networks, files):
    loaded = load_model(name, checkpoint=str(files / f"{name}.pth.tar"))
    assert torch.equal(outputs(loaded.model), outputs(networks[name]))
    assert loaded.num_classes == networks[name].num_classes


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("moco_v2_resnet50", "moco_v2_resnet50"),
        ("moco_v2_resnet50", "resnet50"),
        ("swav_resnet50", "swav_resnet50"),
        ("swav_resnet50", "resnet50"),
        ("reactnet_a", "reactnet_a"),
    ],
)
def test_the_backbone_alone_gives_features(name, backbone, networks, files):
    loaded = load_model(backbone, checkpoint=str(files / f"{name}.pth.tar"), headless=True)
    assert loaded.num_classes == 0
    found = outputs(PooledFeatures(loaded.model))
    torch.testing.assert_close(found, outputs(PooledFeatures(networks[name])))


@pytest.mark.parametrize(
    ("file", "name", "words"),
    [
        ("moco_v2_resnet50", "swav_resnet50", r"head\.projection.* is missing"),
        ("swav_resnet50", "moco_v2_resnet50", r"head\.layers.* is missing"),
        ("swav_resnet50", "swav_resnet50w2", r"conv1.weight has shape \[64, 3, 7, 7\], not \[128,"),
        ("reactnet_a", "moco_v2_resnet50", "is missing"),
        ("moco_v2_resnet50", "reactnet_a", "is missing"),
        ("moco_v2_resnet50", "resnet18", r"layer1.*has shape"),
        ("swav_resnet50", "resnet18", "is missing|has shape"),
        ("reactnet_a", "test_resnet", "is missing"),
    ],
)
def test_a_file_of_another_layout_is_refused(file, name, words, files):
    path = str(files / f"{file}.pth.tar")
    with pytest.raises(ConfigError, match=rf"{file}.*does not fit the model: .*{words}"):
        build_model(name, checkpoint=path)


def test_a_resnet_without_the_head_is_refused(tmp_path):
    state = torchvision.models.resnet50().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"backbone\.conv1\.weight is missing"):
        build_model("moco_v2_resnet50", checkpoint=str(tmp_path / "x.pth"))


def test_a_file_without_its_head_says_how_it_can_be_used(networks, tmp_path):
    state = networks["moco_v2_resnet50"].state_dict()
    inside = {k: v for k, v in state.items() if k.startswith("backbone.")}
    wrapped = {k.replace("backbone.", "module.encoder_q."): v for k, v in inside.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "x.pth")
    path = str(tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"has no head \(head.layers.0.weight is missing\).*feat"):
        build_model("moco_v2_resnet50", checkpoint=path)
    assert build_model("moco_v2_resnet50", checkpoint=path, num_classes=16, new_head=True)


@pytest.mark.parametrize("file", ["moco_v2_resnet50", "swav_resnet50"])
def test_the_backbone_alone_begins_a_classifier(file, networks, files):
    path = str(files / f"{file}.pth.tar")
    with pytest.raises(ConfigError, match=r"has no head \(fc.weight is missing\); take the feat"):
        build_model("resnet50", checkpoint=path)
    begun = build_model("resnet50", checkpoint=path, num_classes=3, new_head=True)
    expected = networks[file].backbone.state_dict()
    assert all(torch.equal(begun.state_dict()[n], value) for n, value in expected.items())


@pytest.mark.parametrize("without", ["prototypes.", "projection_head."])
def test_half_a_head_takes_nothing_from_the_features(without, networks, tmp_path):
    state = as_swav(networks["swav_resnet50"])
    torch.save({n: v for n, v in state.items() if without not in n}, tmp_path / "x.pth")
    path = str(tmp_path / "x.pth")
    for name in ("swav_resnet50", "resnet50"):
        loaded = load_model(name, checkpoint=path, headless=True)
        expected = outputs(PooledFeatures(networks["swav_resnet50"]))
        torch.testing.assert_close(outputs(PooledFeatures(loaded.model)), expected)
    with pytest.raises(ConfigError, match=r"does not fit the model: head\.pro.* is missing"):
        build_model("swav_resnet50", checkpoint=path)


def test_embeddings_have_no_class_names(files):
    path = str(files / "moco_v2_resnet50.pth.tar")
    config = TeacherConfig("moco_v2_resnet50", checkpoint=path, class_names="x.txt")
    with pytest.raises(ConfigError, match=r"teacher\.class_names: the outputs of moco.*no classes"):
        load_teachers([config])


def test_another_number_of_prototypes_is_that_of_the_file(tmp_path):
    network = timm.create_model("swav_resnet50", num_classes=50)
    torch.save(as_swav(network), tmp_path / "x.pth")
    loaded = load_model("swav_resnet50", checkpoint=str(tmp_path / "x.pth"))
    assert loaded.num_classes == 50
    assert torch.equal(outputs(loaded.model), outputs(network))


def test_a_student_of_s2bnn_begins_a_reactnet(networks, tmp_path):
    """Its encoder is ReActNet under the authors' names, with a head of MoCo's kind."""
    inside = as_reactnet(networks["reactnet_a"])
    wrapped = {f"module.encoder_q.{k}": v for k, v in inside.items() if not k.startswith("fc.")}
    head = MlpHead(1024).state_dict()
    wrapped |= {f"module.encoder_q.{k.replace('layers', 'fc')}": v for k, v in head.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "x.pth")
    path = str(tmp_path / "x.pth")
    student = build_model("reactnet_a", checkpoint=path, num_classes=10, new_head=True)
    for key, value in networks["reactnet_a"].state_dict().items():
        assert key.startswith("head.") or torch.equal(student.state_dict()[key], value)
    with pytest.raises(ConfigError, match="has no head"):
        build_model("reactnet_a", checkpoint=path)


@pytest.mark.parametrize("name", ["moco_v2_resnet50", "swav_resnet50", "reactnet_a", "sret_lt"])
def test_without_the_file_no_network_is_taken_for_a_trained_one(name):
    with pytest.raises(ConfigError, match=r"pretrained weights of .* could not be obtained"):
        build_model(name, pretrained=True)
