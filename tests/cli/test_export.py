"""`fkd export` on the command line: what it prints, and its errors."""

import json

import pytest
import safetensors.torch
import timm
import torch

from fkd.cli import main


@pytest.fixture
def export(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    safetensors.torch.save_file(
        timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors"
    )
    monkeypatch.chdir(tmp_path)

    def run_export(*words) -> str:
        model = ["test_resnet", "--checkpoint", "weights.safetensors", "--input_size", "32"]
        main(["export", *model, "--format", "pt2", "--out", "student.pt2", *words])
        return capsys.readouterr().out

    return run_export


def test_what_is_printed(export, tmp_path):
    printed = export("--teacher", "test_vit", "--latency.runs", "2", "--latency.batch_sizes", "[1]")
    assert "file      student.pt2 (" in printed
    assert "normalized float32 crops of 32 pixels to 1,000 logits" in printed
    assert "compared  16 crops of noise: outputs differ from torch's by at most" in printed
    assert "size      teacher test_vit: " in printed
    assert "torch.export" in printed
    assert "teacher test_vit" in printed.partition("latency")[2]
    assert "report    student.pt2.json" in printed
    assert json.loads((tmp_path / "student.pt2.json").read_text())["network"] == "test_resnet"


def test_without_latency_there_is_no_table(export):
    assert "latency" not in export("--latency.runs", "0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "tflite"], "onnx"),
        (["--out", "student.onnx"], "give --format onnx, or another name"),
        (["--teacher.input_size", "32"], "teacher.input_size: no teacher.name does not use it"),
        (["--teacher.name", "resnet5"], "did you mean"),
        (["--images.root", "/nowhere"], "images.root: /nowhere does not exist"),
    ],
)
def test_errors_are_one_line(export, words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        export(*words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("fkd: error: ")
    assert error.count("\n") == 1
    assert message in error
