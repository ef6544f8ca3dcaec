"""Recipes of Table 11: they say what they reproduce, and run, small, with the real command."""

import re
from pathlib import Path

import pytest
import yaml

from fkd.cli import main

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "coco").glob("*.yaml"))

# Published AP, percent, of boxes and masks, and the recipe of the backbone.
PUBLISHED = {
    "table11-faster-rcnn-baseline": ("table3-resnet50-vanilla", 37.7),
    "table11-faster-rcnn-relabel": ("table3-resnet50-relabel", 38.2),
    "table11-faster-rcnn-fkd": ("table3-resnet50-fkd", 38.7),
    "table11-mask-rcnn-baseline": ("table3-resnet50-vanilla", 38.5, 34.7),
    "table11-mask-rcnn-relabel": ("table3-resnet50-relabel", 39.1, 35.2),
    "table11-mask-rcnn-fkd": ("table3-resnet50-fkd", 39.7, 35.9),
}


def test_there_is_a_recipe_for_every_row():
    assert {path.stem for path in RECIPES} == set(PUBLISHED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_gives_row_figures_and_commands(path):
    text, (backbone, *figures) = path.read_text(), PUBLISHED[path.stem]
    first = text.splitlines()[0]
    assert first.startswith("# Table 11, ")
    assert [float(figure) for figure in re.findall(r"([\d.]+) % ", first)] == figures
    assert f"fkd train --config recipes/imagenet/{backbone}.yaml" in text
    assert f"fkd transfer --config recipes/coco/{path.name}" in text
    settings = yaml.safe_load(text)
    made = yaml.safe_load((ROOT / "recipes" / "imagenet" / f"{backbone}.yaml").read_text())
    assert settings["checkpoint"] == made["out"]
    assert made["student"]["name"] == "resnet50"
    assert settings["out"] == f"runs/coco/{path.stem}"


def test_rows_differ_in_task_and_backbone_alone():
    rows = [yaml.safe_load(path.read_text()) for path in RECIPES]
    for row in rows:
        del row["out"], row["checkpoint"], row["task"]
    assert all(row == rows[0] for row in rows)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_linked_from_the_row_with_their_figures(path):
    text = (ROOT / "recipes" / "README.md").read_text()
    (line,) = (line for line in text.splitlines() if f"(coco/{path.name})" in line)
    assert all(f"| {figure} |" in line for figure in PUBLISHED[path.stem][1:])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs_at_smoke_size(path, capsys):
    main(["transfer", "--config", str(path), "--smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "the recipe runs; nothing is kept" in said
    assert "box AP" in said
    assert ("mask AP" in said) == ("mask" in path.stem)
