"""The examples in the docstrings of the public names run and print what they say."""

import doctest

import pytest
import timm
import torch
from safetensors.torch import save_file

import fkd


@pytest.fixture(scope="module")
def examples_folder(image_folder, label_store, tmp_path_factory):
    """A folder with 15 images, 6 stored crops of each, and the weights of a teacher."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").symlink_to(image_folder)
    (folder / "labels").symlink_to(label_store.path)
    torch.manual_seed(0)
    teacher = timm.create_model("test_resnet", num_classes=7)
    save_file(teacher.state_dict(), folder / "teacher.safetensors")
    return folder


@pytest.mark.parametrize("name", fkd.__all__)
def test_every_public_name_has_an_example_that_runs(name, examples_folder, monkeypatch):
    monkeypatch.chdir(examples_folder)
    found = doctest.DocTestFinder(recurse=False).find(getattr(fkd, name), name, globs={})
    assert found, f"fkd.{name} has no example"
    results = doctest.DocTestRunner().run(found[0])
    assert results.attempted > 0
    assert results.failed == 0
