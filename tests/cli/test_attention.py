"""`fkd analyze attention` on the command line: words, files, table and errors."""

import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main

pytest.importorskip("captum", reason="the extra `analysis` is needed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, network in (("first", "test_resnet"), ("second", "test_efficientnet")):
        torch.manual_seed(0)
        (root / name).mkdir()
        state = timm.create_model(network, num_classes=3).state_dict()
        save_file(state, root / name / "model.safetensors")
        card = {"architecture": network, "num_classes": 3, "label_names": ["ant", "bee", "cat"]}
        (root / name / "config.json").write_text(json.dumps(card))
    return [str(root / "first"), str(root / "second")]


@pytest.fixture
def run(image_folder, tmp_path, capsys):
    def run_attention(*words) -> str:
        options = [f"--images.root={image_folder}", f"--out={tmp_path}", "--input_size=64"]
        few = ["--num_images=3", "--num_workers=0", "--device=cpu"]
        main(["analyze", "attention", *words, *options, *few])
        return capsys.readouterr().out

    return run_attention


def test_models_and_images_are_words(run, folders, tmp_path):
    printed = run(*folders, "--shown", "ant/0.png", "bee/1.png")
    assert "first" in printed
    assert "second" in printed
    assert "note      second has no ReLU but SiLU" in printed
    numbers = json.loads((tmp_path / "attention.json").read_text())
    assert [model["model"] for model in numbers["models"]] == folders
    assert [name[-9:] for name in numbers["images"]["shown"]] == ["ant/0.png", "bee/1.png"]
    assert numbers["settings"]["shown"] == ["ant/0.png", "bee/1.png"]
    assert {file.suffix for file in tmp_path.glob("attention.*")} == {".svg", ".png", ".json"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "layer8"], "has no layer 'layer8'"),
        (["--target", "elk"], "does not know the class 'elk'"),
        (["--shown", "nowhere.png"], "has no image nowhere.png"),
        (["--checkpoint", "weights.pt"], "checkpoint"),
    ],
)
def test_errors_are_one_line(run, folders, words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*folders, *words)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("library", ["captum", "matplotlib"])
def test_without_the_extra(run, folders, library, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit) as stop:
        run(folders[0])
    assert stop.value.code == 2
    assert "pip install 'fkd[analysis]'" in capsys.readouterr().err
