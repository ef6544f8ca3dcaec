"""Runs of detectors: what they leave, and that a stop changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fkd.data.sources import ImagesConfig
from fkd.engine.logging import Progress, read_metrics
from fkd.errors import ConfigError, RunError
from fkd.transfer import detectors
from fkd.transfer.run import train_detector
from tests.transfer.conftest import tiny_detector

pytestmark = pytest.mark.usefixtures("tiny")
TIMES = ("seconds", "images_per_second")


class Stop(Exception):
    """Ends a run like a kill: nothing gets a chance to be saved."""


class StopAt(Progress):
    def __init__(self, step=None, evaluation=None):
        self.step, self.evaluation = step, evaluation
        self.began, self.remarks, self.evaluations = None, [], 0

    def begin(self, step, num_steps, description):
        self.began, self.num_steps, self.description = step, num_steps, description

    def remark(self, text):
        self.remarks.append(text)

    def advance(self, step, metrics):
        if step == self.step:
            raise Stop

    def evaluated(self, metrics):
        self.evaluations += 1
        if self.evaluations == self.evaluation:
            raise Stop


def outcome(config):
    """Metrics without times, weights, and what was measured."""
    path = Path(config.out)
    lines = read_metrics(path / "metrics.jsonl")
    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return (
        kept,
        load_file(path / "model.safetensors"),
        json.loads((path / "result.json").read_text()),
    )


def require_same(first, second):
    (lines, weights, result), (expected_lines, expected, measured) = map(outcome, (first, second))
    assert lines == expected_lines
    assert result == measured
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_a_run_leaves_weights_figures_and_settings(detection, monkeypatch):
    told = StopAt()
    result = train_detector(detection, told)
    assert (result.num_steps, result.already_finished) == (4, False)
    assert (told.began, told.num_steps, told.evaluations) == (0, 4, 2)
    assert "2 epochs; 4 steps of 4 images" in told.description
    assert "1 of 8 training images have no object and are left out" in told.remarks
    lines, weights, figures = outcome(detection)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    parts = [name for name in trained[0] if name.startswith("loss_")]
    assert len(parts) == 5
    assert trained[0]["loss"] == pytest.approx(sum(trained[0][name] for name in parts), rel=1e-5)
    assert {"val_box_ap", "val_mask_ap75"} <= lines[-1].keys()
    assert figures == result.figures
    assert figures["val_images"] == 4
    assert [one["id"] for one in figures["mask"]["categories"]] == [1, 18, 90]
    again = train_detector(detection)
    assert again.already_finished
    assert again.figures == result.figures
    monkeypatch.setattr(detectors, "build_detector", tiny_detector)
    network, card = detectors.load_detector(detection.out)
    assert [category.name for category in card.categories] == ["square", "disc", "triangle"]
    assert torch.equal(
        network.state_dict()["rpn.head.cls_logits.bias"], weights["rpn.head.cls_logits.bias"]
    )
    (found,) = network([torch.rand(3, 40, 50)])
    assert {"boxes", "labels", "scores", "masks"} == found.keys()


@pytest.mark.parametrize("stop", [{"step": 3}, {"evaluation": 1}])
def test_a_killed_run_resumes_to_the_same_end(detection, tmp_path, stop):
    reference = replace(detection, out=str(tmp_path / "reference"))
    train_detector(reference)
    with pytest.raises(Stop):
        train_detector(detection, StopAt(**stop))
    told = StopAt()
    train_detector(detection, told)
    assert told.began == (stop.get("step") or 2 * stop["evaluation"]) - 1
    require_same(detection, reference)


def test_how_images_are_loaded_changes_nothing(detection, tmp_path):
    train_detector(detection)
    for workers in ("threads", "processes"):
        other = replace(detection, out=str(tmp_path / workers), num_workers=2, workers=workers)
        train_detector(other)
        require_same(detection, other)


def test_parts_of_a_step_train_on_all_of_its_images(detection):
    result = train_detector(replace(detection, accumulate_steps=2, task="detection"))
    assert result.num_steps == 4
    assert "mask" not in result.figures


def test_other_settings_or_data_are_refused(detection, coco_folder, tmp_path):
    train_detector(detection)
    with pytest.raises(RunError, match=r"flip was 0.5, now 0.1"):
        train_detector(replace(detection, flip=0.1))
    copy = tmp_path / "copy"
    shutil.copytree(coco_folder, copy)
    moved = replace(detection, images=ImagesConfig(root=str(copy)))
    assert train_detector(moved).already_finished
    file = copy / "annotations" / "instances_train2017.json"
    document = json.loads(file.read_text())
    document["annotations"].pop()
    file.write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"data\.annotations_sha256 was"):
        train_detector(moved)


def test_without_validation_images_nothing_is_measured(detection, coco_folder):
    file = coco_folder / "annotations" / "instances_train2017.json"
    images = ImagesConfig(root=str(coco_folder / "train2017"))
    told = StopAt()
    result = train_detector(replace(detection, annotations=str(file), images=images), told)
    assert told.evaluations == 0
    assert "there are no validation images, so AP is not measured" in told.remarks
    assert "box" not in result.figures


def test_annotations_without_an_object_are_refused(detection, write_annotations):
    def change(document):
        document["annotations"].clear()

    file, folder = write_annotations(change)
    config = replace(detection, annotations=file, images=ImagesConfig(root=folder))
    with pytest.raises(ConfigError, match="has no object in any image"):
        train_detector(config)


def test_a_network_that_is_no_resnet_is_refused_before_a_large_file_is_read(detection):
    with pytest.raises(ConfigError, match="backbone: vit_tiny_patch16_224 is no plain ResNet"):
        train_detector(
            replace(detection, backbone="vit_tiny_patch16_224", annotations="/nowhere.json")
        )


def test_a_rate_that_explodes_is_told(detection):
    with pytest.raises(RunError, match=r"the loss is (nan|inf).* lower optimizer.lr"):
        train_detector(
            replace(
                detection,
                optimizer=replace(detection.optimizer, lr=1e30),
                warmup_steps=0,
                checkpoint_seconds=300,
            )
        )
