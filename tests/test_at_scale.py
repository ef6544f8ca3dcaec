"""docs/at-scale.md: its figures follow from the ones that it says they follow from."""

import re
from pathlib import Path

import pytest

from fkd.crops.sampling import CropConfig
from fkd.labeling.config import resolve_images_per_shard
from fkd.labels.codec_names import parse_codec
from fkd.store import form_members, predict_num_bytes
from fkd.store.geometry import crops_member

TEXT = (Path(__file__).parents[1] / "docs" / "at-scale.md").read_text(encoding="utf-8")
KEY_LENGTH = len("n01440764/n01440764_10026.JPEG")
IMAGES = {"1k": (1_281_167, 200), "21k": (14_197_122, 50)}


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head, commas and code marks."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section.replace(",", ""), re.MULTILINE)[1:]
    return [line.replace("`", "").split(" | ") for line in lines]


def gigabytes(num_images: int, num_classes: int, num_crops: int, form: str) -> float:
    codec = parse_codec("ms:5")
    config = form_members(form, codec, num_classes) | {
        "num_images": num_images,
        "num_crops": num_crops,
        "num_classes": num_classes,
        "class_names": [f"n{i:08d}" for i in range(num_classes)],
        "codec": codec.name,
        "extras": {},
        "images_per_shard": resolve_images_per_shard(None, num_images, num_crops),
        "keys_sha256": "0" * 64,
        "crops": crops_member(CropConfig()),
    }
    return predict_num_bytes(config, KEY_LENGTH, num_canaries=64) / 1e9


@pytest.mark.parametrize("row", rows_of("Bytes"))
def test_bytes_are_those_of_the_plan(row):
    images, classes, num_crops, plain, compact = row
    for form, printed in (("plain", plain), ("compact", compact)):
        expected = gigabytes(int(images), int(classes), int(num_crops), form)
        assert float(printed) == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("row", rows_of("Hours of the teacher"))
def test_hours_follow_from_the_speed(row):
    speed, hours = float(row[2]), [float(cell) for cell in row[3:]]
    expected = [
        num_images * num_crops / speed / 3600 / devices
        for num_images, num_crops in IMAGES.values()
        for devices in (1, 8, 64)
    ]
    assert hours == pytest.approx(expected, abs=0.051)


def test_the_tables_are_there():
    assert len(rows_of("Bytes")) == 5
    assert len(rows_of("Hours of the teacher")) == 7
