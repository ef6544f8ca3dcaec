"""Every recipe says what it reproduces, and runs, small, through the code of the real command."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fkd.cli import main
from fkd.labels.codec_names import parse_codec
from fkd.models.architectures import reactnet
from fkd.store import LabelStore

RECIPES = Path(__file__).parents[1] / "recipes" / "imagenet"
TRAINING = sorted(RECIPES.glob("*.yaml"), key=lambda path: path.stem)
LABELS = sorted((RECIPES / "labels").glob("*.yaml"))

# Published top-1, percent: Tables 3 to 9 of the paper, row by row.
TABLE_3 = {"resnet50": (78.1, 78.9, 79.8, 80.1), "resnet101": (79.7, 80.7, 81.7, 81.9)}
TABLE_7 = {
    "vanilla": (77.18, 77.91, 78.14, 77.89, 75.89, 70.09),
    "fkd": (79.59, 79.62, 79.76, 79.51, 78.12, 74.61),
    "mealv2-fkd": (80.67, 80.70, 80.66, 80.58, 80.36, 80.17),
}
CODECS = ("full", "hard", "smoothing", "mr5", "ms5", "ms10")
TABLE_6 = {
    "mealv2-fkd": (80.65, 80.20, 80.23, 80.40, 80.58, 80.52),
    "scratch-fkd": (79.48, 79.09, 79.37, 79.23, 79.51, 79.44),
}
PUBLISHED = (
    {
        f"table3-{net}-{row}": figure
        for net, figures in TABLE_3.items()
        for row, figure in zip(("vanilla", "relabel", "fkd-plain", "fkd"), figures, strict=True)
    }
    | {
        "table4-resnet50-mealv2": 80.67,
        "table4-resnet50-mealv2-fkd": 80.70,
        "table4-resnet50-mealv2-fkd-heart": 80.91,
        "table4-mobilenetv3-small-075-mealv2": 67.60,
        "table4-mobilenetv3-small-075-mealv2-fkd": 67.83,
        "table4-mobilenetv3-small-100-mealv2": 69.65,
        "table4-mobilenetv3-small-100-mealv2-fkd": 69.94,
        "table5-deit-tiny": 72.2,
        "table5-deit-tiny-distilled": 74.5,
        "table5-vit-tiny-vanilla": 68.7,
        "table5-vit-tiny-fkd": 75.2,
        "table5-sret-lt": 76.7,
        "table5-sret-lt-kd": 77.7,
        "table5-sret-lt-fkd": 78.7,
        "table9-reactnet-s2bnn-step1": 61.5,  # after the second step
        "table9-reactnet-s2bnn": 61.5,
        "table9-resnet50-s2bnn": 68.7,
        "table9-reactnet-fkd-ssl-step1": 61.7,  # after the second step
        "table9-reactnet-fkd-ssl": 61.7,
        "table9-resnet50-fkd-ssl": 68.8,
        "table8-fbnetc100-fkd": 77.13,
        "table8-efficientnetv2-b0-fkd": 79.94,
        "text-resnet50-fkd-cutmix": 80.9,
        "text-resnet50-funmatch": 80.5,
        "readme-resnet50-fkd-adamw": 80.5,
    }
    | {
        f"table6-{row}-{codec}": figure
        for row, figures in TABLE_6.items()
        for codec, figure in zip(CODECS, figures, strict=True)
    }
    | {
        f"table7-{row}-m{m}": figure
        for row, figures in TABLE_7.items()
        for m, figure in zip((1, 2, 4, 8, 16, 32), figures, strict=True)
    }
)

BEYOND_THE_PAPER = {
    "extra-resnet50-fkd-teacher-weights",
    "extra-resnet50-dinov3",
    "extra-reactnet-s2bnn-both-step1",
    "extra-reactnet-s2bnn-both",
    "extra-reactnet-moco-step1",
    "extra-reactnet-moco",
}
IMPORTED = {"effl2-maps-released.yaml"}  # made from files of others, in the place of effl2-maps


@pytest.fixture(autouse=True)
def narrow_reactnet(monkeypatch):
    """Its 29 million weights, and what an optimizer keeps of each, go into every checkpoint."""
    monkeypatch.setattr(reactnet, "_WIDTHS", tuple(width // 8 for width in reactnet._WIDTHS))


def header_of(path: Path) -> str:
    """The comment at the top, unwrapped."""
    lines = path.read_text().splitlines()
    comment = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    return " ".join(comment)


def test_there_is_a_recipe_for_every_row():
    assert {path.stem for path in TRAINING} == set(PUBLISHED) | BEYOND_THE_PAPER


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_the_header_gives_row_figure_commands_and_bytes(path):
    header, settings = header_of(path), yaml.safe_load(path.read_text())
    kind = path.stem.partition("-")[0]
    beginnings = {
        "text": "Section 4",
        "readme": "The authors' README",
        "extra": "Beyond the paper",
    }
    assert header.startswith(beginnings.get(kind, f"Table {kind[-1]}, "))
    if path.stem not in BEYOND_THE_PAPER:
        assert re.search(rf"\b{PUBLISHED[path.stem]:g}0* %", header)
    assert f"fkd train --config recipes/imagenet/{path.name}" in header
    assert settings["out"] == f"runs/imagenet/{path.stem}"
    if store := settings.get("labels") or settings.get("maps"):
        labels = RECIPES / store
        made = yaml.safe_load(labels.read_text())
        assert made["out"] == settings["store"]
        assert f"--config recipes/imagenet/labels/{labels.name}" in header
    else:
        assert "Label bytes: none." in header


@pytest.mark.parametrize("m", [1, 2, 4, 8, 16, 32])
def test_table_7_varies_m_alone(m):
    for row in TABLE_7:
        first, this = (
            yaml.safe_load((RECIPES / f"table7-{row}-m{n}.yaml").read_text()) for n in (1, m)
        )
        assert this.pop("crops_per_image") == m
        assert first.pop("crops_per_image") == 1
        assert this.pop("out") != first.pop("out") or m == 1
        assert this == first


@pytest.mark.parametrize("codec", CODECS)
def test_table_6_varies_the_codec_alone(codec):
    spelled = codec if codec in ("full", "hard", "smoothing") else f"{codec[:2]}:{codec[2:]}"
    for teacher in ("effl2", "meal"):
        labels = yaml.safe_load((RECIPES / "labels" / f"{teacher}-m200-{codec}.yaml").read_text())
        assert parse_codec(labels["codec"]) == parse_codec(spelled)
        assert labels["num_crops"] == 200


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_every_recipe_runs_at_smoke_size(path, capsys):
    main(["train", "--config", str(path), "--smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "the recipe runs; nothing is kept" in said
    assert "loss" in said


@pytest.mark.parametrize("path", LABELS, ids=lambda path: path.stem)
def test_label_recipes_are_used_and_give_their_command(path):
    assert f"--config recipes/imagenet/labels/{path.name}" in header_of(path)
    settings = [yaml.safe_load(recipe.read_text()) for recipe in TRAINING]
    used = {recipe.get("labels") or recipe.get("maps") for recipe in settings}
    assert f"labels/{path.name}" in used or path.name in IMPORTED


def test_the_recipe_for_released_maps_imports_them(tmp_path, capsys):
    draw = np.random.default_rng(0)
    for name in ("n01440764/a", "n01443537/b"):
        for folder in ("images", "maps"):
            (tmp_path / folder / name).parent.mkdir(parents=True)
        pixels = draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.JPEG")
        logits = np.sort(draw.normal(size=(15, 15, 5)))[..., ::-1]
        ids = np.stack([draw.permutation(1000)[:5] for _ in range(225)]).reshape(15, 15, 5)
        released = torch.from_numpy(np.stack([logits.transpose(2, 0, 1), ids.transpose(2, 0, 1)]))
        torch.save(released, tmp_path / "maps" / f"{name}.pt")
    recipe = RECIPES / "labels" / "effl2-maps-released.yaml"
    folders = {"images.root": "images", "labels": "maps", "out": "store"}
    options = [w for name, leaf in folders.items() for w in (f"--{name}", str(tmp_path / leaf))]
    main(["import-labels", "--config", str(recipe), *options])
    store = LabelStore.open(tmp_path / "store")
    assert (store.num_images, store.grid, store.codec.name) == (2, (15, 15), "top:5")


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_recipes_leave_nothing_to_defaults_that_follow_the_data(path):
    """What a row was published with must not depend on how many images there are."""
    settings = yaml.safe_load(path.read_text())
    assert {"batch_size", "crops_per_image", "epochs"} <= set(settings)
    assert "lr" in settings["optimizer"]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_repeated_augmentation_follows_the_curve_at_every_step(path):
    """DeiT's rate changes every epoch; a pass with 3 crops per image is three of them."""
    settings = yaml.safe_load(path.read_text())
    if settings["method"] != "fkd" and settings["crops_per_image"] == 3:
        assert settings["schedule"]["per_step"]


FIRST_STEPS = sorted(RECIPES.glob("*-step1.yaml"))


@pytest.mark.parametrize("path", FIRST_STEPS, ids=lambda path: path.stem)
def test_the_second_step_differs_in_start_weights_and_weight_decay_alone(path):
    first = yaml.safe_load(path.read_text())
    second = yaml.safe_load((RECIPES / f"{path.stem.removesuffix('-step1')}.yaml").read_text())
    assert second["student"].pop("checkpoint") == first["out"]
    assert second["student"].pop("name") == first["student"].pop("name").removesuffix("_step1")
    assert second["optimizer"].pop("weight_decay") == 0.0
    first["optimizer"].pop("weight_decay")
    assert first.pop("out") == second.pop("out") + "-step1"
    assert second == first
