"""A network that cannot take its crops says so before anything is written, with sizes that work."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from fkd.cli import main
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.evaluation.probe import NeighborsConfig, ProbeConfig, probe
from fkd.evaluation.protocols import ProtocolConfig
from fkd.models.preprocessing import Preprocessing
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.models.trial import try_network, try_training
from fkd.models.zoo import load_model
from fkd.training.config import StudentConfig
from fkd.training.students import build_student


def at(side):
    return Preprocessing(
        input_size=side, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0
    )


SQUEEZE = "torchvision/squeezenet1_1"
TOO_SMALL = {
    "torchvision/alexnet": (32, "64"),
    SQUEEZE: (10, "32"),
    "inception_v3": (64, "96"),
    "test_vit": (50, "48 or"),
    "convnext_atto": (8, "32"),
    "maxvit_pico_rw_256": (100, "256"),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TOO_SMALL)
def test_sizes_that_a_network_cannot_take(name, training):
    side, working = TOO_SMALL[name]
    loaded = load_model(name, num_classes=3, input_size=side)
    attempt, more = (try_training, [8]) if training else (try_network, [])
    with pytest.raises(ConfigError, match=rf"{side}x{side} pixels \(.*\); use .*{working}"):
        attempt(loaded.model, loaded.preprocessing, name, *more)


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "inception_v3"])
def test_a_single_crop_and_batch_norm(name):
    side = 75 if name == "inception_v3" else 16
    loaded = load_model(name, num_classes=3, input_size=side)
    try_training(loaded.model, loaded.preprocessing, name, 2)
    with pytest.raises(
        ConfigError, match=r"single crop of .*Expected more than 1 value.*batch_size"
    ):
        try_training(loaded.model, loaded.preprocessing, name, 1)


class Faulty(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error, self.weight = error, nn.Parameter(torch.ones(1))

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    "kind", [RuntimeError, AssertionError, ValueError, IndexError, TypeError, ZeroDivisionError]
)
def test_whatever_a_network_raises(kind):
    for error in (kind("odd side\nmore"), kind()):
        with pytest.raises(ConfigError, match="net cannot take crops of 32x32") as caught:
            try_network(Faulty(error), at(32), "net")
        assert "\n" not in str(caught.value)


def test_leaves_no_trace():
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=3, drop_rate=0.5, drop_path_rate=0.5)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    try_training(model, at(32), "x", 4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a network that cannot take crops of 10 pixels."""
    file = tmp_path_factory.mktemp("weights") / "x.pth"
    torch.save(load_model(SQUEEZE, num_classes=3).model.state_dict(), file)
    return str(file)


@pytest.mark.parametrize("verb", ["label", "label-maps", "train", "eval", "kd"])
def test_every_verb_before_it_writes(verb, tmp_path, image_folder, label_store, weights, capsys):
    out, images = str(tmp_path / "out"), ["--images.root", str(image_folder)]
    teacher = [*images, "--teacher.name", SQUEEZE, "--teacher.checkpoint", weights]
    teacher += ["--teacher.input_size", "10", "--out", out, "--device", "cpu"]
    once = ["--epochs", "1", "--crops_per_image", "1"]
    arguments = {
        "label": ["label", *teacher],
        "label-maps": ["label-maps", *teacher],
        "kd": ["train", "--method", "kd", *teacher, *once, "--student.name", "test_resnet"],
        "train": [
            *("train", *images, *once, "--store", str(label_store.path), "--out", out),
            *("--student.name", SQUEEZE, "--student.input_size", "10", "--device", "cpu"),
        ],
        "eval": ["eval", SQUEEZE, "--checkpoint", weights, "--input_size", "10", *images],
    }[verb]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "10x10 pixels" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["test_vit", "convnext_atto", "torchvision/alexnet"])
def test_features_are_not_asked_of_crops_of_such_sizes(name, tmp_path, image_folder):
    """Their number is counted by a forward pass, which the network has to survive."""
    side, working = TOO_SMALL[name]
    file = tmp_path / "x.pth"
    torch.save(load_model(name, num_classes=3, input_size=side).model.state_dict(), file)
    teacher = TeacherConfig(name, output="features", checkpoint=str(file), input_size=side)
    student = StudentConfig(name=name, input_size=side)
    words = rf"{name} cannot take crops of {side}x{side} pixels \(.*\); use .*{working}"
    with pytest.raises(ConfigError, match=f"teacher {words}"):
        load_teachers([teacher])
    with pytest.raises(ConfigError, match=f"student {words}"):
        build_student(student, 8, learns_embeddings=True, seed=0)
    photos = ImagesConfig(root=str(image_folder))
    config = ProbeConfig(name, checkpoint=str(file), images=photos, val=photos, input_size=side)
    with pytest.raises(ConfigError, match=f"model {words}"):
        probe(replace(config, knn=NeighborsConfig(k=1), protocol=ProtocolConfig(name="sgd")))
