"""`fkd train` and `fkd eval` as they are typed."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from fkd.cli import main


@pytest.fixture
def options(tmp_path, image_folder, label_store):
    return [
        *("train", "--method", "fkd", "--store", str(label_store.path)),
        *("--images.root", str(image_folder), "--student.name", "test_vit"),
        *("--student.input_size", "32", "--crops_per_image", "2", "--epochs", "4"),
        *("--batch_size", "8", "--num_workers", "0", "--device", "cpu"),
        *("--out", str(tmp_path / "run")),
    ]


def test_train_then_eval(options, tmp_path, image_folder, capsys):
    main([*options, "--val.root", str(image_folder)])
    said = capsys.readouterr().out
    assert "train     test_vit by fkd: crops and soft labels from a label store" in said
    assert "4 epochs = 1 pass with 2 crops per image, 2 with 1" in said
    assert "val top-1" in said
    assert "model.safetensors; 8 steps in" in said
    main([*options, "--val.root", str(image_folder)])
    assert "is a finished run; nothing was left to do" in capsys.readouterr().out
    main(["eval", str(tmp_path / "run"), "--images.root", str(image_folder)])
    said = capsys.readouterr().out
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert f"accuracy  top-1 {last['val_top1']:.2f} %, top-5 100.00 %" in said
    assert "test_vit, 4 classes, 32 pixels, bilinear" in said


@pytest.fixture
def embedding_run(options, tmp_path, image_folder, capsys):
    """Features are labeled, and a student is trained on them; its folder, and what was said."""
    torch.manual_seed(0)
    weights, store = tmp_path / "teacher.safetensors", str(tmp_path / "features")
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), weights)
    teacher = ("name", "test_resnet"), ("output", "features"), ("input_size", "32")
    given = [word for name, value in teacher for word in (f"--teacher.{name}", value)]
    images = ["--images.root", str(image_folder)]
    given += ["--teacher.checkpoint", str(weights), "--num_crops", "4", "--device", "cpu"]
    main(["label", *images, *given, "--out", store])
    own = ["--method", "fkd-ssl", "--store", store, "--ssl.loss", "bank", "--student.head", "mlp"]
    main([*options, *own, "--val.root", str(image_folder)])
    return tmp_path / "run", capsys.readouterr().out


def test_a_student_of_embeddings_is_told_by_its_neighbors_and_has_no_accuracy(
    embedding_run, image_folder, capsys
):
    run, said = embedding_run
    assert "train     test_vit by fkd-ssl: crops and embeddings from a store of features" in said
    assert "val k-NN" in said
    assert "of nearest neighbors among the features" in said
    assert "top-1" not in said
    for name in (str(run), "moco_v2_resnet50"):
        checkpoint = [] if name == str(run) else ["--checkpoint", _moco_file(run)]
        with pytest.raises(SystemExit) as caught:
            main(["eval", name, "--images.root", str(image_folder), *checkpoint])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert "gives embeddings and no classes" in error
        assert f"`fkd probe {name}`" in error


def _moco_file(run) -> str:
    path = run / "moco.safetensors"
    save_file(timm.create_model("moco_v2_resnet50").state_dict(), path)
    return str(path)


def test_a_run_can_be_repeated_from_its_own_config(options, tmp_path):
    """config.yaml holds all settings, as --config reads them."""
    main(options)
    again = str(tmp_path / "again")
    main(["train", "--config", str(tmp_path / "run/config.yaml"), "--out", again])
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again")
    )
    assert first == second
    assert yaml.safe_load(Path(again, "config.yaml").read_text())["epochs"] == 4


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "meal"], "method 'meal' is unknown"),
        (["--student.name", "resnet5"], "unknown model 'resnet5'"),
        (["--crops_per_image", "9"], "6 crops per image, asked for 9"),
        (["--store", "/nowhere"], "store: /nowhere does not exist"),
        (["--images.root", "/nowhere"], "images.root: /nowhere does not exist"),
        (["--optimizer.name", "adamz"], "optimizer.name 'adamz' is unknown"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(options, extra, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*options, *extra])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "extra", [["--epochz", "3"], ["--epochs", "many"], ["--schedule.name", "saw"], ["--amp", "fp8"]]
)
def test_unknown_options_and_values_are_refused(options, extra, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*options, *extra])
    assert caught.value.code == 2
    assert extra[0].lstrip("-") in capsys.readouterr().err


def test_unknown_yaml_keys_are_refused(options, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("epochs: 3\nlearning_rate: 1\n")
    with pytest.raises(SystemExit) as caught:
        main([*options, "--config", str(tmp_path / "recipe.yaml")])
    assert caught.value.code == 2
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/run"], "model: /nowhere/run does not exist"),
        (["."], "has no model.safetensors; give the folder of a finished run"),
        ([__file__], "is a file; give the folder of a finished run, or a model name"),
        (["runs"], "model: there is no folder runs here, and no network of that name"),
        (["student.pth"], "model: there is no folder student.pth here, and no network"),
        (["resnet5"], "unknown model 'resnet5'; did you mean resnet50"),
    ],
)
def test_eval_of_what_is_no_model_is_refused(arguments, message, image_folder, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["eval", *arguments, "--images.root", str(image_folder)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_eval_of_a_network_without_classes_is_refused(image_folder, tmp_path, capsys):
    name = "vit_tiny_patch16_dinov3_qkvb"
    save_file(timm.create_model(name).state_dict(), tmp_path / "x.safetensors")
    arguments = ["--checkpoint", str(tmp_path / "x.safetensors"), "--images.root"]
    with pytest.raises(SystemExit) as caught:
        main(["eval", name, *arguments, str(image_folder)])
    assert caught.value.code == 2
    assert f"{name} gives embeddings and no classes" in capsys.readouterr().err
