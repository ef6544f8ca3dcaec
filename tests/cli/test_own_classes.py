"""Own images, own classes: a teacher, its labels, a student; as the README writes the commands."""

import json
import re
from pathlib import Path

import pytest

from fkd.cli import main

README = Path(__file__).parents[2] / "README.md"
CLASSES = ("dress", "hat", "pants", "shirt", "shoes", "skirt")


@pytest.fixture
def photos(make_images, tmp_path, monkeypatch):
    """photos/train and photos/val in the working folder."""
    make_images(tmp_path / "photos" / "train", classes=CLASSES, per_class=8)
    make_images(tmp_path / "photos" / "val", classes=CLASSES, per_class=4, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def commands() -> list[list[str]]:
    """The commands of the section, without the program's name."""
    section = README.read_text().partition("## Your own classes\n")[2].partition("\n## ")[0]
    code = re.findall(r"^    fkd (.*)$", section.replace("\\\n", " "), re.MULTILINE)
    return [command.split() for command in code]


def small(command: list[str]) -> list[str]:
    """The same command for a tiny network without published weights, on the CPU."""
    networks = {"tf_efficientnet_lite0": "test_efficientnet", "mobilenetv3_small_050": "test_vit"}
    command = [networks.get(word, word) for word in command if word != "--student.pretrained"]
    options = {"train": ["--student.input_size=32", "--device=cpu", "--epochs=4"]}
    return command + options.get(command[0], ["--device=cpu"])


def test_the_commands_of_the_readme_work_one_after_the_other(photos, capsys):
    verbs = [command[0] for command in commands()]
    assert verbs == ["train", "label", "train", "eval"]
    for command in commands():
        main(small(command))
        printed = capsys.readouterr()
        assert "usage:" not in printed.out + printed.err
        if command[0] == "train":
            assert "warning   the run has only" in printed.out
            assert "steps of 32 crops" in printed.out
    assert "top-1" in printed.out
    student = json.loads((photos.parent / "runs/student/config.json").read_text())
    assert student["label_names"] == list(CLASSES)
