"""`fkd probe` on the command line: the table, the JSON, the errors, and students of `fkd train`."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main


@pytest.fixture(scope="module")
def photos(make_images, tmp_path_factory):
    """Folders train and val, and weights of a backbone."""
    root = tmp_path_factory.mktemp("photos")
    make_images(root / "train", per_class=10)
    make_images(root / "val", per_class=4, seed=1)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), root / "weights.safetensors")
    return root


@pytest.fixture
def run(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = ["--images.root", photos / "train", "--val.root", photos / "val"]
    backbone = ["test_resnet", "--checkpoint", photos / "weights.safetensors"]

    def run_probe(*words, model=backbone) -> str:
        options = ["--input_size", "32", "--knn.k", "5", "--device", "cpu"]
        main([str(word) for word in ["probe", *model, *images, *options, *words]])
        return capsys.readouterr().out

    return run_probe


def test_the_table(run, tmp_path):
    printed = run()
    assert "test_resnet, 96 features" in printed
    assert "30 in " in printed
    for text in ("nearest neighbors", "linear, sweep", "top-1", "learning rate", "held out  0.001"):
        assert text in printed
    assert len(list((tmp_path / "probe-features").glob("test_resnet-*/00000000.safetensors"))) == 2


def test_the_json_is_all_that_is_printed(run):
    report = json.loads(run("--json_output"))
    assert report["num_images"] == 30
    assert 0 <= report["linear"]["top1"] <= 100
    assert set(report["linear"]["held_out_top1"]) > {"0.1"}


@pytest.mark.parametrize("protocol", ["sgd", "lars"])
def test_a_protocol_by_its_name(run, protocol):
    printed = run("--protocol", protocol, "--protocol.epochs", "2", "--out", "null")
    assert f"linear, {protocol}" in printed
    assert "2 epochs" in printed
    assert "features  " not in printed


def test_the_same_images_twice_are_a_warning(run, photos):
    printed = run("--val.root", photos / "train")
    assert "warning   val has the same images as images" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--knn.k", "31"], "knn.k is 31, but there are 30 training images"),
        (["--protocol", "adam"], "protocol.name"),
        (["--protocol.lr", "0.1"], "protocol.lr: protocol sweep does not use it"),
        (["--images.format", "flat"], "has no classes"),
        (["--checkpoint", "/nowhere"], "checkpoint: /nowhere does not exist"),
    ],
)
def test_errors_are_one_line(run, words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("fkd: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_supervised_student_of_a_run(run, photos, capsys):
    main(
        [
            *("train", "--method", "vanilla", "--images.root", str(photos / "train")),
            *("--student.name", "test_vit", "--student.input_size", "32", "--out", "run"),
            *("--epochs", "1", "--batch_size", "8", "--num_workers", "0", "--device", "cpu"),
        ]
    )
    capsys.readouterr()
    report = json.loads(run("--json_output", model=["run"]))
    assert (report["model"], report["num_features"]) == ("test_vit", 64)
