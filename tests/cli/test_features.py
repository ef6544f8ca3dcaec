"""Features of a teacher without classes, by the command line: planned, labeled, checked, made
smaller and looked at."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.cli import main
from fkd.store import LabelStore

PROJECTION = ["--projection.dims", "24", "--projection.seed", "5"]


@pytest.fixture(scope="module")
def teacher_flags(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), file)
    options = {"name": "test_resnet", "checkpoint": file, "input_size": 32, "output": "features"}
    return [str(part) for name, value in options.items() for part in (f"--teacher.{name}", value)]


@pytest.fixture
def run(image_folder, teacher_flags, tmp_path, capsys, monkeypatch):
    """Runs a verb on the images, with the teacher where it takes one; gives what it printed."""
    monkeypatch.setenv("COLUMNS", "300")
    images = ["--images.root", str(image_folder)]
    added = {"inspect": [], "convert": [], "view": images}

    def run_verb(verb, *options):
        main([verb, *map(str, options), *added.get(verb, images + teacher_flags)])
        return capsys.readouterr().out

    return run_verb


def test_from_the_plan_to_the_page(run, tmp_path):
    store, small = tmp_path / "store", tmp_path / "small"
    options = ["--num_crops", "6", "--out", store, *PROJECTION]
    assert "90 crops of 24 dimensions, logits" in run("plan", *options)
    printed = run("label", *options)
    assert "24, projected from" in printed
    assert "embeddings compared: cosine 1.000" in printed
    printed = run("convert", store, "--out", small, "--form", "plain", "--value_dtype", "i8")
    assert "logits i8, plain" in printed
    assert "90 embeddings compared: cosine 1.000" in printed
    assert LabelStore.open(small).value_dtype == "i8"
    for folder in (store, small):
        assert "cosine 1.000" in run("verify", folder)
        assert "24 of an embedding, projected from" in run("inspect", folder)
    run("view", small, "--out", tmp_path / "page.html")
    assert '<ul class="near">' in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--projection.dims", "0"], "projection.dims must be at least 1"),
        (["--projection.dims", "99999"], "projection.dims: 99999 is above the"),
        (["--projection.seed", "3"], "projection.seed: means nothing without --projection.dims"),
        (["--value_dtype", "u16"], "value_dtype: u16 holds probabilities only"),
        (["--codec", "ms:5", "--value_dtype", "i8"], "value_dtype: i8 is for codec logits"),
    ],
)
def test_what_cannot_be_stored_is_one_sentence(run, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        run("label", "--out", tmp_path / "store", *options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()
