"""Class folders called by numbers, where a teacher's classes have names."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.labeling.config import LabelConfig
from fkd.labeling.setup import build_setup
from fkd.models.teacher import TeacherConfig


@pytest.fixture
def config(make_images, tmp_path):
    """Folders 0, 2 and 10, and a teacher of twelve classes that are not called by numbers."""
    images = make_images(tmp_path / "images", ["0", "2", "10"], per_class=1)
    torch.manual_seed(0)
    save_file(
        timm.create_model("test_resnet", num_classes=12).state_dict(), tmp_path / "w.safetensors"
    )
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {letter}" for letter in "abcdefghijkl"))

    def build(classes):
        return LabelConfig(
            images=ImagesConfig(root=str(images), classes=classes),
            teacher=TeacherConfig(
                "test_resnet",
                checkpoint=str(tmp_path / "w.safetensors"),
                class_names=str(names),
                input_size=32,
            ),
            out=str(tmp_path / "store"),
            classes="dataset",
            num_crops=2,
            batch_size=2,
            device="cpu",
        )

    return build


def test_by_number_classes_are_those_of_the_teacher_at_these_positions(config):
    setup = build_setup(config("by_number"), 1)
    assert setup.teachers.class_names == [f"class {letter}" for letter in "abcdefghijk"]
    assert sorted(setup.source.label(i) for i in range(3)) == [0, 2, 10]


def test_by_name_the_error_has_the_way_out(config):
    with pytest.raises(ConfigError, match=r"'0' .*if these numbers are .* images\.classes by_numb"):
        build_setup(config("auto"), 1)
