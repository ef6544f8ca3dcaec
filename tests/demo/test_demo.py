"""The parts of the demo that are quick; `make demo` runs the whole of it."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from fkd.cli.demo import _print_digits
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.demo.digits import DigitsResult, StudentRow, _seconds_per_epoch
from fkd.demo.images import HELD_OUT, PHOTOGRAPHS, write_digits, write_photographs


def test_every_photograph_is_there_and_can_be_decoded(tmp_path):
    """They come out of other packages, which may drop one with a new version."""
    count = write_photographs(tmp_path)
    source = open_source(ImagesConfig(root=str(tmp_path)))
    assert count == len(source) == sum(len(names) for names in PHOTOGRAPHS.values())
    for i in range(len(source)):
        assert min(load(source, i).image.shape[1:]) >= 300


def test_digits_are_split_without_overlap(tmp_path):
    num_train, num_test = write_digits(tmp_path)
    assert (num_train, num_test) == (5000 - 5000 // HELD_OUT, 5000 // HELD_OUT)
    for split, count in (("train", num_train), ("test", num_test)):
        source = open_source(ImagesConfig(root=str(tmp_path / split)))
        assert len(source) == count
        assert source.class_names == [str(digit) for digit in range(10)]
    images = {path.read_bytes() for path in (tmp_path / "train").rglob("*.png")}
    held_out = {path.read_bytes() for path in (tmp_path / "test").rglob("*.png")}
    assert not images & held_out


def test_seconds_per_epoch_weigh_passes_by_their_crops(tmp_path: Path):
    """A pass of 4 crops of 100 images at 200 a second: 2 s; one of 1 crop at 50 a second: 2 s."""
    lines = [
        {"step": 4, "epoch": 4.0, "crops_per_second": 200.0, "seconds": 2.0},
        {"step": 4, "epoch": 4.0, "val_top1": 50.0, "seconds": 9.0},
        {"step": 5, "epoch": 5.0, "crops_per_second": 50.0, "seconds": 11.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _seconds_per_epoch(tmp_path, 100) == pytest.approx((2 + 2) / 5)


def test_the_table_has_a_line_for_every_way():
    rows = [
        StudentRow("true classes", 90.0, 2.0, 1.0, 0.0),
        StudentRow("FKD, m = 4", 95.5, 1.5, 0.75, 240.0),
    ]
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    _print_digits(DigitsResult(4000, 1000, 98.0, 12.0, rows), console)
    printed = console.export_text()
    console.file.close()
    assert "true classes" in printed
    assert "0.75 x" in printed
    assert "95.5 %" in printed
