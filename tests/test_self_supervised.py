"""The worked example of docs/self-supervised.md, as it is written, on tiny networks and images."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fkd.cli import main

TEXT = (Path(__file__).parents[1] / "docs/self-supervised.md").read_text(encoding="utf-8")
TEACHER, STUDENT = "tf_efficientnet_lite0", "mobilenetv3_small_050"
CLASSES = ("dress", "hat", "pants", "shirt")


@pytest.fixture
def folder(make_images, tmp_path, monkeypatch):
    """The working folder: photos/train, photos/val, and weights of a teacher."""
    make_images(tmp_path / "photos" / "train", classes=CLASSES, per_class=8)
    make_images(tmp_path / "photos" / "val", classes=CLASSES, per_class=4, seed=1)
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "t.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    """The commands of the example, without the program's name."""
    section = TEXT.partition("## A worked example\n")[2].partition("\n## ")[0]
    code = re.findall(r"^    fkd (.*)$", section.replace("\\\n", " "), re.MULTILINE)
    return [command.split() for command in code]


def small(command: list[str]) -> list[str]:
    """The same command for tiny networks, whose weights are in a file, on the CPU."""
    networks = {TEACHER: "test_efficientnet", STUDENT: "test_vit"}
    small = [networks.get(word, word) for word in command] + ["--device=cpu"]
    if TEACHER in command:
        small += ["--teacher.checkpoint=t.safetensors", "--teacher.input_size=32"]
    if command[0] == "train":
        small += ["--student.input_size=32", "--epochs=4", "--batch_size=16", "--num_workers=0"]
    return small


def test_the_commands_work_one_after_the_other(folder, capsys):
    assert [command[0] for command in commands()] == ["label", "verify", "train", "probe"]
    printed = {}
    for command in commands():
        main(small(command))
        printed[command[0]] = capsys.readouterr().out
    assert "no classes" in printed["label"]
    assert "cosine 1.000" in printed["verify"]
    assert "32 in photos/train to train on, 16 in photos/val to measure" in printed["probe"]
    assert "linear, sweep" in printed["probe"]
    backbone = load_file(folder / "runs/student/model.safetensors")
    assert set(backbone) == set(timm.create_model("test_vit", num_classes=0).state_dict())
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "self-supervised.md", "exec"), {})
    assert re.fullmatch(r"\d+\.\d+ \d+\.\d+\n", capsys.readouterr().out)
