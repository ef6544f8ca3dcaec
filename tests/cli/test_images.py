"""What verbs say of images, and what they leave alone: their own stores and runs among them."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from fkd.cli import main

STUDENT = [
    *("--student.name", "test_vit", "--student.input_size", "32", "--crops_per_image", "2"),
    *("--epochs", "2", "--batch_size", "8", "--num_workers", "0", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> list[str]:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), file)
    names = file.with_name("names.txt")
    names.write_text("ant\nbee\ncat\n")
    return [
        *("--teacher.name", "test_resnet", "--teacher.checkpoint", str(file)),
        *("--teacher.input_size", "32", "--teacher.class_names", str(names)),
    ]


@pytest.fixture
def images(image_folder, tmp_path) -> Path:
    """Class folders that a test may write into."""
    shutil.copytree(image_folder, tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def run(capsys):
    def run_verb(*arguments) -> str:
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run_verb


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("where", ["", "ant", "work/deeper"])
def test_stores_runs_and_pages_may_lie_among_the_images(images, teacher, run, where):
    """The second command used to take the output of the first for a class."""
    out = images / where
    label = ["label", "--images.root", images, *teacher, "--codec", "ms:2"]
    if where.startswith("work"):
        out = images / "ant" / where
    for name in ("labels", "more"):
        for _ in range(2):
            said = run(*label, "--num_crops", 4, "--out", out / name)
            assert "15 images x 4 crops" in said
    compact = out / "compact"
    for _ in range(2):
        assert "15 images x 4 crops" in run("convert", out / "labels", "--out", compact)
    run("view", compact, "--images.root", images, "--out", out / "page.html")
    data = ["--images.root", images, "--val.root", images]
    for name in ("run", "again"):
        for _ in range(2):
            said = run("train", *data, "--store", compact, *STUDENT, "--out", out / name)
            assert "val top-1" in said or "finished run" in said
            assert "note" not in said
    assert "15 files are those" in run("verify", out / "labels", "--images.root", images)
    assert "images    15 in" in run("eval", out / "run", "--images.root", images)


@pytest.mark.parametrize("verb", ["label", "label-maps", "import-labels", "train"])
def test_the_folder_of_the_images_itself_is_refused_at_the_start(images, teacher, capsys, verb):
    before = sorted(images.rglob("*"))
    more = {
        "label": teacher,
        "label-maps": teacher,
        "import-labels": ["--format", "relabel", "--labels", images],
        "train": ["--method", "vanilla", *STUDENT],
    }[verb]
    said = fails(capsys, verb, "--images.root", images, "--out", images, *more)
    assert f"out: {images} is the folder of the images" in said
    assert sorted(images.rglob("*")) == before


@pytest.mark.parametrize("verb", ["plan", "label", "label-maps", "train", "eval"])
def test_files_that_are_left_out_are_said_in_one_line(images, teacher, run, tmp_path, verb):
    for name in ("ant/1.psd", "ant/2.PSD", "bee/IMG_1", "cat/notes.txt"):
        (images / name).write_bytes(b"x")
    data = ["--images.root", images]
    label = [*data, *teacher, "--out", tmp_path / "out"]
    train = ["train", *data, "--method", "vanilla", *STUDENT]
    if verb == "eval":
        run(*train, "--out", tmp_path / "run")
    said = run(
        *{
            "plan": ["plan", *label, "--num_crops", 2, "--codec", "ms:2"],
            "label": ["label", *label, "--num_crops", 2, "--codec", "ms:2"],
            "label-maps": ["label-maps", *label, "--top_k", 2],
            "train": [*train, "--out", tmp_path / "run"],
            "eval": ["eval", tmp_path / "run", *data],
        }[verb]
    )
    assert [line for line in said.splitlines() if line.startswith("note")] == [
        f"note      {images}: 3 files are left out, as no images: 2 .psd, 1 without extension; "
        "convert them to PNG or JPEG if they are images"
    ]


def test_classes_of_the_validation_images_that_differ_are_said(images, run, tmp_path):
    val = tmp_path / "val_images"
    shutil.copytree(images, val)
    (val / "bee").rename(val / "wasp")
    train = ["train", "--images.root", images, "--method", "vanilla", *STUDENT]
    said = run(*train, "--val.root", val, "--out", tmp_path / "run")
    assert [line for line in said.splitlines() if line.startswith("note")] == [
        f"note      val: {val} has no images of 1 classes (bee), and 5 images of 1 classes that "
        "the student does not know (wasp), which are left out"
    ]


def test_validation_images_of_no_known_class_are_refused(images, capsys, tmp_path):
    val = tmp_path / "val_images"
    for name in ("0", "1", "2"):
        (val / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(val / name / "1.png")
    train = ["train", "--images.root", images, "--method", "vanilla", *STUDENT]
    said = fails(capsys, *train, "--val.root", val, "--out", tmp_path / "run")
    assert "none of the classes of" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["plan", "label", "train"])
def test_splits_are_not_taken_for_classes(images, teacher, capsys, tmp_path, verb):
    root = tmp_path / "set"
    for name in ("train", "val", "meta"):
        shutil.copytree(images, root / name)
    more = ["--method", "vanilla", *STUDENT] if verb == "train" else teacher
    said = fails(capsys, verb, "--images.root", root, "--out", tmp_path / "out", *more)
    assert f"give {root}/train" in said
    assert not (tmp_path / "out").exists()
