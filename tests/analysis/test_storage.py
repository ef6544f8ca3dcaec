"""Table 2 of the paper, and the files it is about."""

import io

import numpy as np
import pytest
import torch

from fkd.analysis.storage import (
    StorageConfig,
    compare_storage,
    draw_storage,
    formula_bytes,
    official_file_bytes,
)
from fkd.errors import ConfigError
from fkd.labels.codec_names import parse_codec

PAPER = StorageConfig(num_images=1_200_000, num_classes=1000, num_crops=200)
# "Dim." of Table 2, and its sizes, which are in GiB
TABLE = [
    ("full", 1005, 898.5),
    ("hard", 6, 5.36),
    ("smoothing", 7, 6.26),
    ("mr:5", 15, 13.41),
    ("ms:5", 15, 13.41),
    ("ms:10", 25, 22.35),
]


@pytest.mark.parametrize(("codec", "dims", "gibibytes"), TABLE)
def test_the_formula_gives_table_2(codec, dims, gibibytes):
    found = formula_bytes(PAPER, parse_codec(codec))
    assert found == 1_200_000 * 200 * dims * 4
    assert found / 2**30 == pytest.approx(gibibytes, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "gibibytes"), [("label map, full", 1005.8), ("label map, top 5", 10.06)]
)
def test_the_formula_gives_the_label_maps_of_table_2(kind, gibibytes):
    rows = {row.codec: row for row in compare_storage(PAPER)}
    assert rows[kind].formula / 2**30 == pytest.approx(gibibytes, rel=1e-3)


@pytest.mark.parametrize("num_crops", [1, 200])
def test_an_official_file_has_the_official_arrays(num_crops):
    """The least that it can have, and the envelope of a torch archive."""
    least = {"ms:5": 4 * (4 + 10) + 1, "hard": 4 * 4 + 8 + 1, "full": 4 * (4 + 1000) + 1}
    for codec, per_crop in least.items():
        found = official_file_bytes(parse_codec(codec), 1000, num_crops)
        assert per_crop * num_crops < found
        content = [np.zeros((num_crops, 4), np.float32), np.zeros(num_crops, bool)]
        buffer = io.BytesIO()
        torch.save([*content, np.zeros((num_crops, (per_crop - 17) // 4), np.float32)], buffer)
        assert found >= buffer.tell()  # pickled bytes above 127 take two


def test_a_store_is_measured_in_its_row(label_store):
    config = StorageConfig(
        num_images=label_store.num_images,
        num_classes=label_store.num_classes,
        num_crops=label_store.num_crops,
        kept=(3,),
    )
    rows = compare_storage(config, label_store)
    (measured,) = [row for row in rows if row.measured]
    assert measured.codec == label_store.codec.name
    files = [file for file in label_store.path.rglob("*") if file.is_file()]
    assert measured.measured == sum(len(file.read_bytes()) for file in files)


def test_every_row_is_drawn():
    rows = compare_storage(PAPER)
    axes = draw_storage(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.codec for row in rows]
    drawn = [bar.get_width() for bars in axes.containers for bar in bars]
    assert drawn[: len(rows)] == [row.formula / 1e9 for row in rows]


@pytest.mark.parametrize("name", ["full", "hard", "mr:5"])
def test_large_files_grow_evenly(name, monkeypatch):
    """Nobody has the memory for the labels of a million crops of 21,841 classes at once."""
    codec = parse_codec(name)
    measured = official_file_bytes(codec, 100, 4000)
    monkeypatch.setattr("fkd.analysis.storage._MEASURED_NUMBERS", 20_000)
    assert official_file_bytes(codec, 100, 4000) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(("num_images", "unit"), [(10, "kB"), (1000, "MB"), (1_200_000, "GB")])
def test_the_unit_of_the_figure_is_that_of_the_largest_number(num_images, unit):
    rows = compare_storage(StorageConfig(num_images=num_images, num_classes=10, num_crops=4))
    axes = draw_storage(rows).axes[0]
    assert axes.get_xlabel().startswith(unit)
    assert max(bar.get_width() for bars in axes.containers for bar in bars) >= 1


@pytest.mark.parametrize("name", ["num_images", "num_classes", "num_crops", "key_length"])
def test_numbers_that_cannot_be(name):
    given = {"num_images": 1, "num_classes": 2, "num_crops": 1} | {name: 0}
    with pytest.raises(ConfigError, match=name):
        StorageConfig(**given)
