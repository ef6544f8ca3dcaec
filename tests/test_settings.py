"""Settings of every kind: whole numbers, paths with `~`, and folders that are written."""

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fkd.crops.augment import AugmentConfig
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labeling.foreign.run import ImportConfig
from fkd.models.teacher import TeacherConfig
from fkd.store import convert_store
from fkd.training.config import StudentConfig, TrainConfig
from fkd.transfer.config import DetectorConfig, TransferConfig
from fkd.viewing.page import PageConfig

IMAGES, TEACHER = ImagesConfig(root="photos"), TeacherConfig("resnet18")
CONFIGS = [
    AugmentConfig(),
    CropConfig(),
    ScheduleConfig(),
    PageConfig(),
    TEACHER,
    StudentConfig(name="resnet18"),
    LabelConfig(images=IMAGES, teacher=TEACHER, out="labels"),
    LabelMapsConfig(images=IMAGES, teacher=TEACHER, out="maps"),
    ImportConfig(images=IMAGES, labels="released", format="relabel", out="maps"),
    DetectorConfig(),
    TransferConfig(images=IMAGES, checkpoint="student", out="run"),
    TrainConfig(images=IMAGES, student=StudentConfig(name="resnet18"), method="vanilla", out="run"),
]
PATHS = {
    ImagesConfig: ["root"],
    TeacherConfig: ["checkpoint", "class_names"],
    StudentConfig: ["checkpoint"],
    LabelConfig: ["out"],
    LabelMapsConfig: ["out"],
    ImportConfig: ["labels", "out", "classes"],
    TransferConfig: ["out", "checkpoint"],
    TrainConfig: ["out", "store"],
}
WHOLE = [
    (config, field.name)
    for config in CONFIGS
    for field in fields(config)
    if field.type in (int, int | None)
]


def names(value):
    return type(value).__name__ if hasattr(value, "__dataclass_fields__") else str(value)


@pytest.mark.parametrize(("config", "name"), WHOLE, ids=names)
@pytest.mark.parametrize("value", [1.5, 2.0, True, "4", float("nan")])
def test_whole_numbers(config, name, value):
    with pytest.raises(ConfigError, match=rf"{name} must be a whole number \(an int\), got "):
        replace(config, **{name: value})


def test_there_are_whole_numbers_to_test():
    assert len(WHOLE) > 30


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (config, name)
        for config in [*CONFIGS, IMAGES]
        for name in PATHS.get(type(config), [])
        if (type(config), name) != (TrainConfig, "store")  # of other methods
    ],
    ids=names,
)
@pytest.mark.parametrize("kind", [str, Path])
def test_home_folders_and_paths(config, name, kind, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(replace(config, **{name: kind("~/x/y")}), name) == f"{tmp_path}/x/y"
    assert getattr(replace(config, **{name: kind("x/~y")}), name) == "x/~y"
    with pytest.raises(ConfigError, match=f"{name}: a path is text, got 3"):
        replace(config, **{name: 3})


@pytest.mark.parametrize("config", [c for c in CONFIGS if hasattr(c, "images")], ids=names)
def test_nothing_is_written_into_the_folder_of_the_images_itself(config, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    images = ImagesConfig(root=str(tmp_path / "images"))
    for out in ("images", "images/", "link", "images/../images"):
        with pytest.raises(ConfigError, match=r"out: .* is the folder of the images; give another"):
            replace(config, images=images, out=os.path.join(tmp_path, out))
    replace(config, images=images, out=str(tmp_path / "images" / "out"))


def test_nor_into_that_of_the_validation_images():
    with pytest.raises(ConfigError, match="out: val is the folder of the images"):
        replace(CONFIGS[-1], val=ImagesConfig(root="val"), out="val")


@pytest.mark.parametrize("value", [2.0, 1.5, True, "2"])
def test_conversion_keeps_a_whole_number_of_crops(value, label_store, tmp_path):
    with pytest.raises(ConfigError, match=r"num_crops must be a whole number"):
        convert_store(label_store.path, tmp_path / "out", num_crops=value)
    assert not (tmp_path / "out").exists()
