"""Every verb that takes images takes them from every place: saved data sets, archives, lists."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main
from tests.data.kinds import place

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


@pytest.mark.parametrize("name", ["saved splits", "csv"])
def test_label_verify_train_and_evaluate(name, image_folder, teacher, tmp_path, capsys):
    images = ["--images.root", str(place(name, image_folder, tmp_path / "images"))]
    labels, run = str(tmp_path / "labels"), str(tmp_path / "run")
    main(["label", *images, *teacher, "--codec", "ms:2", "--num_crops", "4", "--out", labels])
    main(["verify", labels, *images])
    assert "crops have exactly the teacher's pixels" in capsys.readouterr().out
    main(["train", *images, "--store", labels, *STUDENT, "--out", run])
    capsys.readouterr()
    main(["eval", run, *images])
    assert "top-1" in capsys.readouterr().out
    main(["view", labels, *images, "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_a_missing_image_of_a_list_ends_with_one_line(teacher, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("gone.png 0\n")
    images = ["--images.root", str(tmp_path / "a.txt")]
    with pytest.raises(SystemExit) as caught:
        main(["label", *images, *teacher, "--out", str(tmp_path / "labels")])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "gone.png in line 1 of" in error
    assert "\n" not in error
