"""`fkd convert` and `fkd label --form compact`, from a teacher to labels read back."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main
from fkd.store import LabelStore


def run(capsys, *arguments) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def teacher_flags(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), file)
    teacher = {"name": "test_resnet", "checkpoint": str(file), "input_size": "32"}
    return [part for name, value in teacher.items() for part in (f"--teacher.{name}", value)]


@pytest.fixture
def label(image_folder, teacher_flags, tmp_path, capsys):
    def run_label(name, *more):
        common = ["--images.root", image_folder, "--out", tmp_path / name, "--num_crops", "6"]
        run(capsys, "label", *common, *teacher_flags, "--codec", "ms:3", *more)
        return tmp_path / name

    return run_label


def test_convert_says_what_became_of_bytes_and_labels(label, tmp_path, capsys):
    plain = label("plain")
    printed = run(capsys, "convert", plain, "--out", tmp_path / "compact")
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", printed))
    assert after < before == LabelStore.open(plain).num_bytes
    assert "ms:3, compact, boxes recomputed" in printed
    assert "top-1 agreement 100.00%" in printed
    assert LabelStore.open(tmp_path / "compact").root_hash in printed
    printed = run(
        capsys, "convert", tmp_path / "compact", "--out", tmp_path / "b", "--form", "plain"
    )
    assert "ms:3 u16, plain\n" in printed


def test_a_compact_store_is_labeled_verified_and_looked_at(
    label, image_folder, teacher_flags, tmp_path, capsys
):
    store = label("compact", "--form", "compact")
    images = ["--images.root", image_folder]
    printed = run(capsys, "verify", store, *images, *teacher_flags, "--spot_checks", "16")
    assert "top-1 agreement 100.00%" in printed
    assert "compact" in run(capsys, "inspect", store)
    assert "ms:3" in run(capsys, "inspect", store, "--json_output")
    run(capsys, "view", store, *images)
    # What is labeled compactly and what is made compact later differ in their origin alone.
    plain = label("plain", "--value_dtype", "f32")
    run(capsys, "convert", plain, "--out", tmp_path / "later")
    later = LabelStore.open(tmp_path / "later").config
    assert later.pop("converted_from") == LabelStore.open(plain).root_hash
    assert later == LabelStore.open(store).config


def test_convert_needs_a_folder_to_write_to(label, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["convert", str(label("plain"))])
    assert exit_.value.code == 2
    assert "out: give the folder" in capsys.readouterr().err


def test_sampled_labels_and_chosen_crops(label, image_folder, teacher_flags, tmp_path, capsys):
    store = label("sampled", "--codec", "sampled:2")
    fewer = ["--num_crops", "4", "--keep", "confident", "--out", tmp_path / "fewer"]
    printed = run(capsys, "convert", store, *fewer)
    assert "x 4 crops, sampled:2, compact, boxes stored" in printed
    images = ["--images.root", image_folder]
    printed = run(capsys, "verify", tmp_path / "fewer", *images, *teacher_flags)
    assert "top-1 agreement 100.00%" in printed
    run(capsys, "view", tmp_path / "fewer", *images)
