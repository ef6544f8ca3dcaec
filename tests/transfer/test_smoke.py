"""Smoke runs of all tasks; the detectors are torchvision's own."""

from pathlib import Path

import pytest

from fkd.cli import main
from fkd.data.sources import ImagesConfig
from fkd.transfer.config import TransferConfig
from fkd.transfer.smoke import smoke_settings, write_coco


def test_the_command_needs_nothing_and_reports_box_and_mask_ap(capsys):
    """The whole of torchvision's Mask R-CNN on a ResNet-18."""
    main(["transfer", "--smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "Mask R-CNN on" in said
    assert "frozen batch norm" in said
    assert "box AP" in said
    assert "mask AP" in said
    assert "the recipe runs; nothing is kept" in said


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("options", [["--task", "detection"], ["--from_scratch"]])
def test_detectors_of_other_kinds(options, capsys):
    main(["transfer", "--smoke", "--device", "cpu", *options])
    said = capsys.readouterr().out
    assert "box AP" in said
    assert ("mask AP" in said) == (options != ["--task", "detection"])


def test_settings_of_a_recipe_are_kept_and_paths_are_not(tmp_path):
    recipe = TransferConfig(
        out="/nowhere/run",
        images=ImagesConfig(root="/nowhere/coco"),
        checkpoint="/nowhere/student",
        preset="tv-ref",
        flip=0.25,
    )
    small = smoke_settings(recipe, tmp_path)
    assert (small.preset, small.flip, small.task) == ("tv-ref", 0.25, "segmentation")
    for path in (small.out, small.images.root, small.checkpoint):
        assert Path(path).is_relative_to(tmp_path)


def test_generated_images_depend_on_the_seed_alone(tmp_path):
    def files_of(folder, seed):
        root = write_coco(tmp_path / folder, seed)
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert files_of("a", 0) == files_of("b", 0) != files_of("c", 1)
