"""Masks from polygons and run lengths."""

import numpy as np
import pytest

from fkd.errors import ConfigError
from fkd.transfer import masks
from fkd.transfer.masks import make_mask, parse_segmentation

SIZE = (8, 10)


def test_a_polygon_covers_the_pixels_inside():
    square = parse_segmentation([[2, 1, 7, 1, 7, 5, 2, 5]], *SIZE)
    expected = np.zeros(SIZE, np.uint8)
    expected[1:5, 2:7] = 1
    np.testing.assert_array_equal(make_mask(square, *SIZE), expected)


def test_several_polygons_are_one_mask():
    both = parse_segmentation([[0, 0, 2, 0, 2, 2, 0, 2], [5, 5, 8, 5, 8, 7, 5, 7]], *SIZE)
    assert make_mask(both, *SIZE).sum() == 2 * 2 + 3 * 2


def test_run_lengths_go_down_the_columns():
    run_lengths = parse_segmentation({"size": list(SIZE), "counts": [8, 12, 60]}, *SIZE)
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected.reshape(-1)[8:20] = 1
    np.testing.assert_array_equal(make_mask(run_lengths, *SIZE), expected.T)


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_those_of_the_library(seed):
    from faster_coco_eval.core import mask

    shape = (40 + seed, 50)
    pixels = (np.random.default_rng(seed).random(shape) < 0.02 * 3**seed).astype(np.uint8)
    encoded = mask.encode(np.asfortranarray(pixels))
    value = {"size": list(shape), "counts": encoded["counts"].decode()}
    np.testing.assert_array_equal(make_mask(parse_segmentation(value, *shape), *shape), pixels)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "has no segmentation"),
        ([], "has no segmentation"),
        ("square", "of type str"),
        ([3], "polygon of 1 numbers"),
        ([[1, 2, 3, 4]], "polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon of 7 numbers"),
        ([[1, 2, 3, 4, 5, "x"]], "no list of numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "far outside"),
        ([[1, 2, 3, 4, 5, 1e300]], "far outside"),
        ([[[1, 2], [3, 4], [5, 6]]], "polygon of 6 numbers"),
        ({}, "of the size None"),
        ({"size": [10, 8], "counts": [80]}, r"size \[10, 8\], but its image has \[8, 10\]"),
        ({"size": [8, 10]}, "no whole numbers"),
        ({"size": [8, 10], "counts": [1.5, 78.5]}, "no whole numbers"),
        ({"size": [8, 10], "counts": [True, 79]}, "no whole numbers"),
        ({"size": [8, 10], "counts": [79]}, "do not add up to the 80 pixels"),
        ({"size": [8, 10], "counts": [100, -20]}, "do not add up"),
        ({"size": [8, 10], "counts": "zzzz"}, "damaged"),
        ({"size": [8, 10], "counts": "oo"}, "cut short"),
        ({"size": [8, 10], "counts": "0"}, "do not add up"),
        ({"size": [8, 10], "counts": "\x00"}, "damaged"),
    ],
)
def test_what_is_no_segmentation_is_told(value, message):
    with pytest.raises(ValueError, match=message):
        parse_segmentation(value, *SIZE)


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval.core.mask", None)
    with pytest.raises(ConfigError, match=r"needs faster-coco-eval.*pip install \"fkd\[coco\]\""):
        masks.require_mask_library()
