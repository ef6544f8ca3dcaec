"""A smoke run keeps what a recipe is about and makes the rest small."""

from dataclasses import replace
from pathlib import Path

import pytest

from fkd.cli import main
from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig, LabelMapsConfig
from fkd.labels.codecs import MarginalRenorm
from fkd.models.teacher import TeacherConfig
from fkd.smoke import smoke_settings
from fkd.store import LabelStore
from fkd.training.config import StudentConfig, TrainConfig

IMAGES = ImagesConfig(root="/nowhere/train")
LABELS = LabelConfig(
    images=IMAGES,
    out="/nowhere/labels",
    teachers=[
        TeacherConfig("resnet50", weight=3.0),
        TeacherConfig("resnet101", temperature=2.0),
    ],
    num_crops=500,
    codec=MarginalRenorm(4),
)
RECIPE = TrainConfig(
    out="/nowhere/run",
    images=IMAGES,
    val=IMAGES,
    student=StudentConfig(name="resnet18", pretrained=True),
    store="/nowhere/labels",
    crops_per_image=4,
    optimizer=OptimizerConfig(lr=0.2, nesterov=True),
    schedule=ScheduleConfig(warmup_epochs=5),
)


def test_labels_are_made_as_the_recipe_says_with_small_teachers(tmp_path):
    small = smoke_settings(RECIPE, LABELS, tmp_path)
    store = LabelStore.open(small.store)
    assert (store.codec.name, store.num_crops, store.num_images) == ("mr:4", 4, 12)
    teachers = store.config["teachers"]
    assert [teacher["name"] for teacher in teachers] == ["test_resnet", "test_resnet"]
    assert [teacher["weight"] for teacher in teachers] == [3.0, 1.0]
    assert [teacher["temperature"] for teacher in teachers] == [1.0, 2.0]


def test_the_run_keeps_method_and_optimizer_and_has_every_kind_of_pass(tmp_path):
    small = smoke_settings(RECIPE, LABELS, tmp_path)
    assert small.student == StudentConfig(name="resnet18", input_size=32)
    assert small.optimizer == OptimizerConfig(lr=0.2 * 48 / 1024, nesterov=True)
    assert (small.epochs, small.schedule.warmup_epochs) == (1 + 4 + 1, 1)
    assert small.val == small.images
    for path in (small.out, small.store, small.images.root):
        assert Path(path).is_relative_to(tmp_path)


def test_label_maps_are_made_as_the_recipe_says(tmp_path):
    recipe = replace(RECIPE, method="relabel", crops_per_image=1)
    maps = LabelMapsConfig(
        images=IMAGES, out="/nowhere/maps", teacher=TeacherConfig("resnet50"), top_k=4
    )
    small = smoke_settings(recipe, maps, tmp_path)
    store = LabelStore.open(small.store)
    assert (store.grid, store.codec.name, store.num_images) == ((3, 3), "top:4", 12)
    with pytest.raises(ConfigError, match="maps: a smoke run makes its own label maps"):
        smoke_settings(recipe, LABELS, tmp_path / "other")


def test_a_recipe_without_a_store_needs_no_labels(tmp_path):
    recipe = TrainConfig(
        out="/nowhere/run",
        images=IMAGES,
        student=StudentConfig(name="resnet18"),
        method="kd",
        teachers=[TeacherConfig("resnet50"), TeacherConfig("resnet101")],
    )
    small = smoke_settings(recipe, None, tmp_path)
    assert [teacher.name for teacher in small.teachers] == ["test_resnet", "test_resnet"]
    assert (small.store, small.val) == (None, None)


def test_a_store_of_unknown_making_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="labels: a smoke run makes its own label store"):
        smoke_settings(RECIPE, None, tmp_path)


def test_a_smoke_run_is_not_told_that_it_is_short(capsys):
    recipe = Path(__file__).parents[1] / "recipes" / "imagenet" / "table7-vanilla-m1.yaml"
    main(["train", "--config", str(recipe), "--smoke", "--device", "cpu"])
    assert "warning" not in capsys.readouterr().out
