"""The accuracy check: measured where classes match by name, refused below the user's floor."""

import re
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from fkd.cli.label import label as run_verb
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, TeacherError
from fkd.labeling.accuracy_check import (
    TeacherAccuracy,
    describe_weakness,
    measure_accuracy,
    require_accuracy,
)
from fkd.labeling.run import label
from fkd.models.ensemble import TeacherEnsemble
from fkd.models.preprocessing import Preprocessing
from fkd.models.single_teacher import Teacher
from fkd.models.teacher import TeacherConfig

HALF = Preprocessing(
    input_size=16, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9
)


class Color(nn.Module):
    """Knows the images of these tests: red is an ant, green a bee, blue a cat."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.scale * x.mean((2, 3))


def color_teacher(names=("ant", "bee", "cat"), **preprocessing) -> TeacherEnsemble:
    looks = replace(HALF, **preprocessing)
    teacher = Teacher(Color(), name="color", preprocessing=looks, class_names=names)
    return TeacherEnsemble([teacher])


def test_a_teacher_that_knows_the_images_is_right(image_source):
    report = measure_accuracy(image_source, color_teacher())
    assert (report.num, report.top1) == (15, 1.0)
    assert str(report) == "top-1 100.0% on 15 of these images (center crop)"


def test_the_sample_is_spread_over_the_classes(image_source):
    report = measure_accuracy(image_source, color_teacher(), 3)
    assert (report.num, report.top1) == (3, 1.0)


def test_classes_are_matched_by_name_and_not_by_number(image_source):
    """Folders are ant, bee, cat; a head in another order must be understood."""
    names = ("Ant", "dog", "cat")
    wrong = color_teacher(names=("cat", "ant", "bee"))
    assert measure_accuracy(image_source, wrong).top1 == 0.0
    report = measure_accuracy(image_source, color_teacher(names=names))
    assert report.num == 0
    assert "'bee'" in report.reason


@pytest.mark.parametrize("mean", [(0.5, -0.2, 0.5), (0.6, 0.0, 0.5), (1.0, 0.4, 0.4)])
def test_a_wrong_normalization_is_refused_below_the_floor(image_source, mean):
    report = measure_accuracy(image_source, color_teacher(mean=mean))
    assert report.top1 < 0.9
    with pytest.raises(TeacherError, match=r"classes in another order.*normalization") as caught:
        require_accuracy(report, 0.9)
    advised = set(re.findall(r"--teacher\.(\w+)", str(caught.value)))
    assert advised == {"input_size", "class_names", "checkpoint", "mean", "std"}
    assert advised <= {field.name for field in fields(TeacherConfig)}


def test_a_floor_that_is_reached_or_absent_is_passed(image_source):
    report = measure_accuracy(image_source, color_teacher())
    require_accuracy(report, 1.0)
    require_accuracy(replace(report, top1=0.0), None)


def test_images_without_classes_cannot_be_measured(image_folder):
    flat = open_source(ImagesConfig(root=str(image_folder), format="flat"))
    report = measure_accuracy(flat, color_teacher())
    assert str(report) == "not measured: the images have no classes"
    with pytest.raises(ConfigError, match=r"min_accuracy: .*the images have no classes"):
        require_accuracy(report, 0.5)


def test_the_teacher_is_checked_before_anything_is_written(make_config, make_teacher, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["ant", "bee", "cat", "dog", "elk", "fly", "gnu"]))
    teacher = make_teacher(tmp_path / "m.safetensors", class_names=str(names))
    config = make_config(tmp_path / "store", teacher=teacher, accuracy_images=15, min_accuracy=1.0)
    with pytest.raises(TeacherError, match=r"right on .*less than min_accuracy 100\.0%"):
        label(config)
    assert not (tmp_path / "store").exists()
    label(replace(config, min_accuracy=0.0))


class TestWeakTeachers:
    @pytest.mark.parametrize(
        ("num_classes", "top1", "num", "warned"),
        [
            (10, 0.27, 256, True),
            (10, 0.10, 256, True),
            (10, 0.70, 256, False),
            (1000, 0.80, 256, False),
            (1000, 0.55, 256, False),
            (1000, 0.27, 256, True),
            (2, 0.50, 256, True),
            (2, 0.60, 256, True),
            (2, 0.90, 256, False),
            (2, 0.67, 3, False),  # one of three wrong says nothing
            (1, 1.00, 256, False),
            (10, 0.00, 0, False),  # not measured
        ],
    )
    def test_relative_to_chance_and_to_the_sample(self, num_classes, top1, num, warned):
        said = describe_weakness(TeacherAccuracy(num, top1, num_classes=num_classes))
        assert bool(said) == warned
        if warned:
            assert f"{top1:.1%} of {num}" in said
            assert ("by guessing" in said) == (top1 <= 1 / num_classes + 0.02)

    def test_label_warns_and_says_it_again(self, make_config, tmp_path, capsys):
        named = tmp_path / "names.txt"
        named.write_text("cat\nant\nbee\nelk\nfox\ngnu\nhen\n")
        config = make_config(tmp_path / "store", accuracy_images=15)
        run_verb(replace(config, teacher=replace(config.teacher, class_names=str(named))))
        start, end = capsys.readouterr().out.split("75 of 75 crops")
        assert "warning" in start
        assert "the teacher is right on" in start
        assert "accuracy  top-1" in end
