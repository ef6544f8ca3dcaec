"""Networks without their classifier, from files with one and without one."""

import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import generate_default_cfgs, register_model
from torch import nn

from fkd.errors import ConfigError
from fkd.models import zoo
from fkd.models.features import PooledFeatures
from fkd.models.headless import classifier_parameters, remove_classifier
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.zoo import load_model

HEADLESS = "fkd_test_headless"  # as DINO's: timm builds it without a classifier
KINDS = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]
IMAGES = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, scope="session")
def headless_network():
    """A small network of timm whose published weights have no classifier."""

    def fkd_test_headless(pretrained=False, num_classes=0, **options):
        return timm.create_model("test_vit", num_classes=num_classes)

    tags = {
        f"{HEADLESS}.web": {
            "num_classes": 0,
            "license": "web-license",
            "classifier": "head",
            "file": "x",
        }
    }
    fkd_test_headless.__module__ = __name__
    globals()["default_cfgs"] = generate_default_cfgs(
        {
            name: fields | {"input_size": (3, 160, 160), "fixed_input_size": True}
            for name, fields in tags.items()
        }
    )
    register_model(fkd_test_headless)


def features(model):
    with torch.no_grad():
        return PooledFeatures(model).eval()(IMAGES)


def create(name, **options):
    torch.manual_seed(0)
    if name.startswith("torchvision/"):
        return torchvision.models.get_model(name.removeprefix("torchvision/"), **options)
    return timm.create_model(name, **options)


@pytest.fixture
def save(tmp_path):
    def write(model, file="x.safetensors"):
        save_file(model.state_dict(), tmp_path / file)
        return str(tmp_path / file)

    return write


@pytest.mark.parametrize("name", [*KINDS, "torchvision/resnet18", "torchvision/mobilenet_v3_small"])
def test_features_do_not_depend_on_the_head_in_the_file(name, save):
    whole = create(name, num_classes=7)
    expected = features(whole)
    with_head = load_model(name, checkpoint=save(whole), headless=True)
    remove_classifier(whole)
    without = load_model(name, checkpoint=save(whole, "y.safetensors"), headless=True)
    for loaded in (with_head, without):
        assert (loaded.num_classes, loaded.class_names) == (0, None)
        torch.testing.assert_close(features(loaded.model), expected)
    assert with_head.model.state_dict().keys() == without.model.state_dict().keys()


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_network_that_has_no_head_takes_files_with_one(num_classes, save):
    whole = create("test_vit", num_classes=num_classes)
    path = save(whole)
    for name in (HEADLESS, "test_vit"):
        loaded = load_model(name, checkpoint=path, headless=True)
        torch.testing.assert_close(features(loaded.model), features(whole))
    loaded = load_model(HEADLESS, checkpoint=path)  # whose head is of use after all
    assert loaded.num_classes == num_classes
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.eval()(IMAGES), whole.eval()(IMAGES))


@pytest.mark.parametrize("name", ["test_vit", "torchvision/resnet18"])
def test_a_file_without_a_head_says_how_it_can_be_used(name, save):
    whole = create(name)
    remove_classifier(whole)
    path = save(whole)
    with pytest.raises(
        ConfigError, match=r"x.safetensors has no head \(.*is missing\); .*features"
    ):
        load_teachers([TeacherConfig(name, checkpoint=path)])
    with pytest.raises(ConfigError, match="or set new_head to start another"):
        load_model(name, checkpoint=path, num_classes=3)
    student = load_model(name, checkpoint=path, num_classes=3, new_head=True)
    assert student.num_classes == 3
    torch.testing.assert_close(features(student.model), features(whole))


def test_half_a_head_is_a_damaged_file(tmp_path):
    state = create("test_vit", num_classes=3).state_dict()
    del state["head.bias"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit the model: head\.bias is missing"):
        load_model(
            "test_vit", checkpoint=str(tmp_path / "x.safetensors"), num_classes=3, new_head=True
        )


@pytest.mark.parametrize("options", [{}, {"output": "logits"}])
def test_without_classes_a_teacher_asks_for_features(options, save):
    path = save(create("test_vit", num_classes=0))
    with pytest.raises(
        ConfigError, match=r"no classifier .*use its features \(--teacher\.output f"
    ):
        load_teachers([TeacherConfig(HEADLESS, checkpoint=path, **options)])
    teachers = load_teachers([TeacherConfig(HEADLESS, checkpoint=path, output="features")])
    assert not teachers.is_classifier
    assert len(teachers.class_names) == 64


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3.lvd1689m", f"{HEADLESS}.web"])
def test_nothing_is_downloaded_that_knows_no_classes(name, monkeypatch):
    monkeypatch.setattr(zoo, "_download", None)
    with pytest.raises(ConfigError, match=f"{name} has no classifier"):
        load_teachers([TeacherConfig(name)])


def test_a_wrong_file_is_refused_without_a_head_too(save):
    path = save(create("test_resnet"))
    with pytest.raises(ConfigError, match=r"does not fit the model: .*is missing"):
        load_model("test_vit", checkpoint=path, headless=True)


def test_a_folder_of_a_network_without_classes(tmp_path):
    save_file(create("test_vit", num_classes=0).state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, 160, 160], "num_classes": 0, "license": "folder's"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (teacher,) = load_teachers([TeacherConfig(str(tmp_path), output="features")]).teachers
    assert teacher.license == "folder's"
    with pytest.raises(ConfigError, match="use its features"):
        load_teachers([TeacherConfig(str(tmp_path))])


@pytest.mark.parametrize(
    ("name", "license"),
    [(f"{HEADLESS}.web", "web-license"), (HEADLESS, None), ("test_vit.r160_in1k", "apache-2.0")],
)
def test_the_license_is_that_of_the_weights_that_are_named(name, license, save):
    """A file under a plain name may hold anybody's weights."""
    path = save(create("test_vit", num_classes=0))
    loaded = load_model(name, checkpoint=path, headless=True)
    assert loaded.license == license
    (teacher,) = load_teachers([TeacherConfig(name, checkpoint=path, output="features")]).teachers
    assert teacher.identity().get("license") == license


def test_packaged_weights_have_the_license_of_timm():
    assert load_model("tf_efficientnet_lite0", pretrained=True).license == "apache-2.0"
    assert load_model("tf_efficientnet_lite0").license is None
    assert load_model("torchvision/resnet18").license is None


def test_a_network_that_ends_otherwise_is_refused():
    squeeze = torchvision.models.get_model("squeezenet1_0")
    with pytest.raises(ConfigError, match="squeeze has no linear classifier"):
        remove_classifier(squeeze, "squeeze")
    assert classifier_parameters(squeeze) == frozenset()


def test_the_parameters_of_a_classifier_are_found_without_removing_it():
    model = create("torchvision/resnet18")
    assert classifier_parameters(model) == {"fc.weight", "fc.bias"}
    assert isinstance(model.fc, nn.Linear)
