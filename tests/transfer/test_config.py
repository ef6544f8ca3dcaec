"""Settings: presets, places of files, and what contradicts."""

from dataclasses import replace

import pytest

from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.errors import ConfigError
from fkd.transfer.config import (
    CocoPaths,
    DetectorConfig,
    TransferConfig,
    fill_in,
    find_coco_paths,
)

IMAGES = ImagesConfig(root="coco")
CONFIG = TransferConfig(out="run", images=IMAGES, checkpoint="student")


@pytest.mark.parametrize(
    ("changes", "epochs", "milestones", "lr"),
    [
        ({}, 12, (8, 11), 0.02),
        ({"preset": "tv-ref"}, 26, (16, 22), 0.02),
        ({"batch_size": 8}, 12, (8, 11), 0.01),
        ({"batch_size": 64}, 12, (8, 11), 0.08),
        ({"epochs": 24}, 24, (16, 22), 0.02),
        ({"epochs": 5, "milestones": (3, 4)}, 5, (3, 4), 0.02),
        ({"optimizer": OptimizerConfig(lr=0.5), "batch_size": 4}, 12, (8, 11), 0.5),
        ({"optimizer": OptimizerConfig(name="adamw", lr=1e-4)}, 12, (8, 11), 1e-4),
    ],
)
def test_presets_and_what_goes_before_them(changes, epochs, milestones, lr):
    filled = fill_in(replace(CONFIG, **changes), 117_266)
    assert (filled.epochs, filled.milestones) == (epochs, milestones)
    assert filled.optimizer.lr == pytest.approx(lr)
    assert filled.warmup_steps == 1000


@pytest.mark.parametrize(("num_images", "steps"), [(160, 10), (161, 11), (5, 1), (16_000, 1000)])
def test_the_warm_up_takes_at_most_an_epoch(num_images, steps):
    assert fill_in(CONFIG, num_images).warmup_steps == steps
    assert fill_in(replace(CONFIG, warmup_steps=7), num_images).warmup_steps == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": ""}, "out: give the folder of the run"),
        ({"images": None}, "images: give the images to train on"),
        ({"out": "coco"}, "out: coco is the folder of the images"),
        ({"task": "keypoints"}, "task: 'keypoints' is none of detection, segmentation"),
        ({"preset": "3x"}, "preset: '3x' is none of 1x, tv-ref"),
        ({"checkpoint": None}, r"say once where the weights .* \(nothing is given\)"),
        ({"pretrained": True}, "checkpoint and pretrained are given"),
        ({"checkpoint": None, "pretrained": True, "from_scratch": True}, "pretrained and from_sc"),
        ({"flip": 1.5}, r"flip must lie in \[0, 1\]"),
        ({"input_size": 64}, "input_size: task segmentation does not use it"),
        ({"task": "classification", "preset": "tv-ref"}, "preset: task classification does not"),
        ({"task": "classification", "annotations": "a"}, "annotations: task classification"),
        ({"images": ImagesConfig(root="a", split="val")}, "images.split: task segmentation, whose"),
        ({"val": ImagesConfig(root="a")}, "val: task segmentation needs to know what is in"),
        ({"val_annotations": "a"}, "val_annotations: give --annotations"),
        ({"milestones": (0, 3)}, "milestones must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_told(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3, "milestones": (2, 3)}, "do not all lie before the end of 3 epochs"),
        ({"optimizer": OptimizerConfig(name="adamw")}, "give the learning rate of adamw"),
    ],
)
def test_what_does_not_fit_a_preset_is_told(changes, message):
    with pytest.raises(ConfigError, match=message):
        fill_in(replace(CONFIG, **changes), 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable_layers": 6}, "trainable_layers is 6, but a ResNet has 5"),
        ({"max_size": 700}, "max_size is 700, less than min_size 800"),
        ({"min_size": 0}, "detector.min_size must be at least 1"),
    ],
)
def test_sizes_of_a_detector(changes, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**changes)


def at(root, **changes):
    return replace(CONFIG, images=ImagesConfig(root=str(root)), **changes)


@pytest.mark.parametrize("places", ["", "images/"])
@pytest.mark.parametrize("year", ["2014", "2017", ""])
def test_the_folder_of_coco_is_known_by_its_names(tmp_path, places, year):
    (tmp_path / "annotations").mkdir()
    for part in ("train", "val"):
        (tmp_path / f"annotations/instances_{part}{year}.json").write_text("{}")
        (tmp_path / f"{places}{part}{year}").mkdir(parents=True)
    found = find_coco_paths(at(tmp_path))
    assert found == CocoPaths(
        f"{tmp_path}/annotations/instances_train{year}.json",
        f"{tmp_path}/{places}train{year}",
        f"{tmp_path}/annotations/instances_val{year}.json",
        f"{tmp_path}/{places}val{year}",
    )
    (tmp_path / f"annotations/instances_val{year}.json").unlink()
    assert find_coco_paths(at(tmp_path)).val_annotations is None


def test_files_of_other_names_are_given(tmp_path):
    given = at("a", annotations="a.json")
    assert find_coco_paths(given) == CocoPaths("a.json", "a", None, None)
    shared = replace(given, val_annotations="b.json")
    assert find_coco_paths(shared) == CocoPaths("a.json", "a", "b.json", "a")
    apart = replace(shared, val=ImagesConfig(root="b"))
    assert find_coco_paths(apart) == CocoPaths("a.json", "a", "b.json", "b")


def test_a_folder_without_annotations_or_with_several_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"has no annotations/instances_train2017\.json; give"):
        find_coco_paths(at(tmp_path))
    (tmp_path / "annotations").mkdir()
    for year in (2014, 2017):
        (tmp_path / f"annotations/instances_train{year}.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"train2014.json and instances_train2017.json; choose"):
        find_coco_paths(at(tmp_path))
