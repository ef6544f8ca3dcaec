"""Fine-tuning on other classes, through `fkd.training`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm

from fkd.cli import main
from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.errors import RunError
from fkd.models.cards import ModelCard
from fkd.models.names import parse_model_name
from fkd.models.preprocessing import default_preprocessing
from fkd.training.setup import fill_in, open_data
from fkd.training.students import save_student
from fkd.transfer.classification import fine_tune, training_config
from fkd.transfer.config import TransferConfig


@pytest.fixture
def student(tmp_path):
    """A run folder of five classes, bicubic at 32 pixels."""
    path = tmp_path / "student"
    path.mkdir()
    preprocessing = default_preprocessing(parse_model_name("test_resnet")).changed(
        input_size=32, interpolation="bicubic", mean=[0.3] * 3
    )
    network = timm.create_model("test_resnet", num_classes=5)
    save_student(path, network, ModelCard("test_resnet", 5, preprocessing), list("abcde"))
    return path


@pytest.fixture
def config(tmp_path, student, image_folder):
    images = ImagesConfig(root=str(image_folder))
    return TransferConfig(
        task="classification",
        out=str(tmp_path / "run"),
        checkpoint=str(student),
        images=images,
        val=images,
        epochs=2,
        num_workers=0,
        device="cpu",
    )


def test_the_settings_are_those_of_a_student_that_starts_from_trained_weights(config):
    settings = training_config(config)
    student = settings.student
    assert (settings.method, student.name, student.new_head) == ("vanilla", "test_resnet", True)
    assert student.interpolation == "bicubic"
    assert training_config(replace(config, epochs=None)).epochs == 30
    filled = fill_in(settings, open_data(settings))
    assert filled.optimizer.peak_lr == pytest.approx(0.01)
    given = replace(config, optimizer=OptimizerConfig(lr=0.3), batch_size=5, input_size=40)
    settings = training_config(given)
    assert (settings.optimizer.lr, settings.batch_size) == (0.3, 5)
    assert settings.student.input_size == 40


def test_accuracy_is_told_before_and_after(config, capsys):
    result = fine_tune(config)
    before, after = result.before, result.trained
    assert before is not None
    assert after.num_steps == 2
    written = json.loads((Path(config.out) / "result.json").read_text())
    assert written["before"] == {"top1": before[0], "top5": before[1]}
    assert written["after"] == {"top1": after.val_top1, "top5": after.val_top5}
    assert before[1] == after.val_top5 == 100.0  # of three classes
    card = json.loads((Path(config.out) / "config.json").read_text())
    assert (card["num_classes"], card["pretrained_cfg"]["mean"]) == (3, [0.3] * 3)
    assert fine_tune(config).before == before
    options = [f"--out={config.out}", f"--images={config.images.root}", "--num_workers=0"]
    options += [f"--val={config.images.root}", f"--checkpoint={config.checkpoint}", "--epochs=2"]
    main(["transfer", "--task=classification", "--device=cpu", *options])
    said = capsys.readouterr().out
    assert "is a finished run; nothing was left to do" in said
    assert f"before    top-1 {before[0]:.2f} %, top-5 100.00 %\n" in said
    assert f"after     top-1 {after.val_top1:.2f} %" in said


def test_other_settings_are_refused_before_anything_is_measured(config, monkeypatch):
    fine_tune(config)
    monkeypatch.setattr("fkd.transfer.classification.measure_accuracy", None)
    with pytest.raises(RunError, match="epochs was 2, now 3"):
        fine_tune(replace(config, epochs=3))


def test_a_file_of_weights_needs_the_name_of_its_network(config, tmp_path):
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), file)
    settings = training_config(replace(config, checkpoint=str(file), backbone="test_resnet"))
    assert (settings.student.name, settings.student.checkpoint) == ("test_resnet", str(file))
    assert training_config(replace(config, checkpoint=str(file))).student.name == "resnet50"


def test_published_weights_and_no_validation_images(config):
    published = replace(config, checkpoint=None, pretrained=True, val=None)
    student = training_config(published).student
    assert (student.name, student.pretrained, student.new_head) == ("resnet50", True, False)
    result = fine_tune(replace(config, val=None))
    assert result.before is None
    assert result.trained.val_top1 is None
