"""docs/start.md: every command and every script of it, in order, on photos in class folders.

The photos are those of the folder that the variable FKD_PHOTOS names, divided into classes, else
parts of photographs that packages bring. What is made smaller is in `SMALLER`, and nothing else is
changed.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fkd.cli import main
from fkd.demo.images import write_photographs

PAGE = (Path(__file__).parents[1] / "docs" / "start.md").read_text(encoding="utf-8")
CLASSES = {"dress": "coffee.png", "hat": "flower.jpg", "shirt": "moon.png"}
PER_CLASS, SIDE = 40, 160

SMALLER = {
    "--epochs 8 --out runs/teacher": "--epochs 8 --batch_size 8 --student.input_size 64 "
    "--out runs/teacher",
    "--num_crops 20": "--num_crops 4",
    "--student.input_size 128 --epochs 20": "--student.input_size 64 --batch_size 16 --epochs 8",
}
MAY_FIND_SOMETHING = "fkd analyze duplicates"  # then it exits with 1


def blocks() -> list[str]:
    """The commands and the Python scripts of the page, in order; layouts of folders are neither."""
    found = re.findall(r"```python\n(.*?)```|((?:^    [^\n]+\n)+)", PAGE, re.DOTALL | re.MULTILINE)
    return [script or commands for script, commands in found]


def commands_of(block: str) -> list[str]:
    """The commands of a block, one line each."""
    lines = re.sub(r" *\\\n +", " ", block).splitlines()
    return [line.strip() for line in lines if line.strip().startswith("fkd ")]


def write_photos(folder: Path) -> None:
    """Class folders of parts of three photographs, each class of one of them."""
    write_photographs(folder.parent / "whole")
    draw = np.random.default_rng(0)
    for name, file in CLASSES.items():
        image = Image.open(folder.parent / "whole" / file).convert("RGB")
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            left, top = (int(draw.integers(0, side - SIDE)) for side in image.size)
            part = image.crop((left, top, left + SIDE, top + SIDE))
            part.save(folder / name / f"{number}.jpg", quality=90)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """The folder in which a reader of the page works, with photos in photos/all."""
    room = tmp_path_factory.mktemp("start")
    if given := os.environ.get("FKD_PHOTOS"):
        shutil.copytree(given, room / "photos" / "all")
    else:
        write_photos(room / "photos" / "all")
    before = Path.cwd()
    os.chdir(room)
    yield room
    os.chdir(before)


@pytest.fixture(scope="module")
def printed(room):
    """What every command printed, by command, and the variables of the scripts."""
    texts, names = {}, {}
    for block in blocks():
        if commands_of(block):
            for command in commands_of(block):
                texts[command] = run(command)
        elif block.lstrip().startswith(("import", "from")):
            name = next((room / "photos" / "val").glob("*/*"), None) if texts else None
            script = re.sub(r"photos/val/hat/5\.jpg", str(name), block)
            exec(compile(script, "start.md", "exec"), names)
    return texts, names


def run(command: str) -> str:
    """Run a command as it is printed, but smaller; what it printed."""
    for words, fewer in SMALLER.items():
        command = command.replace(words, fewer)
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            main(shlex.split(command.partition("#")[0])[1:])
        except SystemExit as end:
            if end.code and not command.startswith(MAY_FIND_SOMETHING):
                raise AssertionError(f"{command} ended with {end.code}: {text.getvalue()}") from end
    return text.getvalue()


def test_what_is_made_smaller_is_on_the_page():
    text = re.sub(r" *\\\n +", " ", PAGE)
    for words in SMALLER:
        assert words in text, words
    assert len([c for block in blocks() for c in commands_of(block)]) == 10


def test_the_teacher_and_the_student_know_the_classes(printed, room):
    """Far better than chance: in half as many cases again as by it, at least."""
    classes = len(list((room / "photos" / "train").iterdir()))
    for name in ("teacher", "student"):
        lines = (room / "runs" / name / "metrics.jsonl").read_text().splitlines()
        top1 = [json.loads(line)["val_top1"] for line in lines if "val_top1" in line]
        assert top1[-1] > 150 / classes, name


def test_labels_are_whole_and_those_of_the_teacher(printed):
    texts, _ = printed
    (verified,) = (text for command, text in texts.items() if command.startswith("fkd verify"))
    assert "is whole" in verified
    assert "agreement 100.00%" in verified


def test_the_exported_file_says_what_the_run_folder_says(printed, room):
    """Without torch, and with it in timm; they resize in their own ways."""
    _, names = printed
    photos = sorted((room / "photos" / "val").glob("*/*"))
    same = 0
    for photo in photos:
        name, probability = names["classify"](str(photo))
        assert 0 < probability <= 1
        pixels = names["transform"](Image.open(photo).convert("RGB"))
        with torch.no_grad():
            best = int(names["model"](pixels[None]).argmax())
        same += name == names["class_names"][best]
    assert same >= 0.75 * len(photos)
