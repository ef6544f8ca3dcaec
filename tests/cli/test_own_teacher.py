"""The run folder of a student is a teacher, whichever option names it; also what timm saved."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fkd.cli import main
from fkd.store import LabelStore

SMALL = ["--batch_size", "8", "--epochs", "2", "--crops_per_image", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, image_folder):
    """A network trained on the classes of the images, with colors of its own."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    main(
        [
            "train",
            "--method",
            "vanilla",
            "--images.root",
            str(image_folder),
            "--out",
            str(out),
            "--student.name",
            "test_resnet",
            "--student.input_size",
            "32",
            *SMALL,
            "--student.mean",
            "[0.5,0.4,0.3]",
            "--student.std",
            "[0.2,0.3,0.4]",
        ]
    )
    return out


def label(image_folder, out, *teacher):
    main(
        [
            "label",
            "--images.root",
            str(image_folder),
            "--out",
            str(out),
            "--num_crops",
            "2",
            *teacher,
            "--device",
            "cpu",
        ]
    )
    return LabelStore.open(out)


class TestRunFolder:
    @pytest.mark.parametrize("option", ["name", "checkpoint"])
    def test_labels(self, run_folder, image_folder, tmp_path, option, capsys):
        store = label(image_folder, tmp_path / "s", f"--teacher.{option}", str(run_folder))
        facts = store.config["teachers"][0]
        assert (facts["mean"], facts["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
        assert (facts["name"], facts["input_size"]) == ("test_resnet", 32)
        assert store.class_names == ("ant", "bee", "cat")
        assert store.codec.name == "ms:3"
        main(
            [
                "train",
                "--store",
                str(store.path),
                "--images.root",
                str(image_folder),
                *SMALL,
                "--out",
                str(tmp_path / "r"),
                "--student.name",
                "test_resnet",
                "--student.input_size",
                "48",
            ]
        )
        printed = " ".join(capsys.readouterr().out.split())
        assert "teacher test_resnet 32 pixels bilinear; student test_resnet 48 pixels" in printed

    def test_is_evaluated_and_verified(self, run_folder, image_folder, tmp_path, capsys):
        root = ["--images.root", str(image_folder)]
        main(["eval", str(run_folder), *root, "--device", "cpu"])
        assert "3 classes, 32 pixels" in capsys.readouterr().out
        label(image_folder, tmp_path / "s", "--teacher.name", str(run_folder))
        main(["verify", str(tmp_path / "s"), *root, "--teacher.name", str(run_folder)])
        assert "checked" in capsys.readouterr().out


def test_colors_of_a_file_are_given_and_belong_to_the_store(run_folder, image_folder, tmp_path):
    save_file(load_file(run_folder / "model.safetensors"), tmp_path / "x.safetensors")
    teacher = ["--teacher.name", "test_resnet", "--teacher.input_size", "32"]
    teacher += ["--teacher.checkpoint", str(tmp_path / "x.safetensors")]
    teacher += ["--teacher.interpolation", "bilinear"]
    colors = ["--teacher.mean", "[0.5, 0.4, 0.3]", "--teacher.std", "[0.2, 0.3, 0.4]"]
    own = label(image_folder, tmp_path / "own", "--teacher.name", str(run_folder))
    given = label(image_folder, tmp_path / "given", *teacher, *colors)
    assert own.config["teachers"][0]["mean"] == given.config["teachers"][0]["mean"]
    other = label(image_folder, tmp_path / "other", *teacher)
    assert other.config["teachers"][0]["mean"] != given.config["teachers"][0]["mean"]
    assert other.config_id != given.config_id


def test_a_folder_of_timm(image_folder, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(
        timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "model.safetensors"
    )
    inputs = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}
    config = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["cat", "bee", "ant"]}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": inputs}))
    store = label(image_folder, tmp_path / "s", "--teacher.name", str(folder))
    facts = store.config["teachers"][0]
    assert (facts["input_size"], facts["mean"]) == (48, [0.1, 0.2, 0.3])
    assert store.class_names == ("cat", "bee", "ant")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("mean", "[124,116,104]"), ("std", "[0,1,1]"), ("temperature", "-1"), ("weight", "0")),
        *(("input_size", "0"), ("interpolation", "nearest"), ("mean", "[0.5,0.5]"), ("std", "x")),
    ],
)
@pytest.mark.parametrize("verb", ["label", "plan", "label-maps", "train"])
def test_impossible_values_are_one_sentence(verb, option, value, run_folder, tmp_path, capsys):
    arguments = [verb, "--images.root", str(tmp_path), "--out", str(tmp_path / "s")]
    arguments += ["--teacher.name", str(run_folder), f"--teacher.{option}", value]
    if verb == "train":
        arguments += ["--method", "kd", "--student.name", "test_resnet"]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("fkd: error: ")
    assert "\n" not in printed
    assert f"teacher.{option}" in printed
