"""Maps written by the test itself, by rows and by columns, are told apart by a teacher's labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fkd.cli import main, verify_images
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling import axes
from fkd.labeling.axes import AxesReport, compare_axes_of
from fkd.labeling.foreign.run import ImportConfig, check_axes, import_labels, require_axes
from fkd.labeling.store_checks import SpotCheckReport
from fkd.labels.comparison import LabelComparison
from fkd.models.modules import TeacherModule
from fkd.models.teacher import TeacherConfig, load_teachers

NAMES = ("red", "green", "blue")
CELLS = 6


class Color(nn.Module):
    """Tells the mean color of a crop."""

    def forward(self, pixels):
        return 12 * pixels.mean((2, 3))


SAME = LabelComparison(1, 1.0, 0.0, 0.0, 0.0)
TEACHER = TeacherModule(Color(), input_size=16, mean=(0.0,) * 3, std=(1.0,) * 3, class_names=NAMES)


def write(root: Path, pattern, *, by_columns=False, count=24) -> ImportConfig:
    """Images of 6 x 6 fields of color and their maps, whose logits are the color of each field."""
    draw = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "maps").mkdir()
    (root / "names.txt").write_text("\n".join(NAMES))
    for i in range(count):
        fields = pattern(draw)
        pixels = np.repeat(np.repeat(fields, 8, axis=0), 10, axis=1)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        scores = 12 * fields.astype(np.float32).transpose(2, 0, 1) / 255
        if by_columns:
            scores = scores.transpose(0, 2, 1)
        ids = np.broadcast_to(np.arange(3.0)[:, None, None], scores.shape)
        torch.save(torch.from_numpy(np.stack([scores, ids])).float(), root / "maps" / f"{i}.pt")
    return ImportConfig(
        images=ImagesConfig(root=str(root / "images")),
        labels=str(root / "maps"),
        format="relabel",
        classes=str(root / "names.txt"),
        out=str(root / "store"),
        axes_teacher=TEACHER,
    )


def quarters(draw):
    """A color of its own in each quarter."""
    fields = draw.integers(0, 60, (CELLS, CELLS, 3), dtype=np.uint8)
    for rows in (slice(0, 3), slice(3, 6)):
        for columns in (slice(0, 3), slice(3, 6)):
            fields[rows, columns, draw.integers(3)] += 180
    return fields


def symmetric(draw):
    """The same across the diagonal."""
    fields = quarters(draw)
    return np.maximum(fields, fields.transpose(1, 0, 2))


def report_of(config) -> AxesReport:
    found = check_axes(config)
    assert found is not None
    return found


@pytest.mark.parametrize("by_columns", [False, True])
def test_the_reading_of_the_files_is_told(tmp_path, by_columns):
    config = write(tmp_path, quarters, by_columns=by_columns)
    asis, swapped = report_of(config), report_of(replace(config, swap_xy=True))
    assert (asis.is_right, swapped.is_right) == (not by_columns, by_columns)
    assert asis.num == swapped.num > 15
    assert asis.num_nearer + swapped.num_nearer == asis.num
    right, wrong = (asis.exchanged, asis.as_read) if by_columns else (asis.as_read, asis.exchanged)
    assert right.top1_agreement > 0.9 > wrong.top1_agreement
    assert right.mean_kl < wrong.mean_kl / 2
    right_count = asis.num - asis.num_nearer if by_columns else asis.num_nearer
    name = "(column, row)" if by_columns else "(row, column)"
    for report, swap_xy in ((asis, False), (swapped, True)):
        lines = report.describe(swap_xy=swap_xy)
        assert lines[1].startswith(f"the labels follow {name}, to which {right_count} of")
    fitting, other = (swapped, asis) if by_columns else (asis, swapped)
    require_axes(fitting, replace(config, swap_xy=by_columns))
    with pytest.raises(
        ConfigError, match=r"add --swap_xy" if by_columns else "leave out --swap_xy"
    ):
        require_axes(other, replace(config, swap_xy=not by_columns))


def test_maps_by_columns_are_imported_as_those_by_rows(tmp_path):
    rows = import_labels(write(tmp_path / "rows", quarters)).store
    config = write(tmp_path / "columns", quarters, by_columns=True)
    columns = import_labels(replace(config, swap_xy=True)).store
    for one, other in zip(rows.read(range(24)).label, columns.read(range(24)).label, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    assert columns.config == rows.config | {"swap_xy": True}
    with pytest.raises(StoreMismatch, match="swap_xy"):
        import_labels(config)
    teachers = load_teachers([TEACHER])
    assert compare_axes_of(columns, open_source(config.images), teachers).is_right is True


def test_symmetric_maps_cannot_be_told_apart(tmp_path):
    report = report_of(write(tmp_path, symmetric))
    assert report.is_right is None
    assert "nearly symmetric" in report.describe()[0]


def test_labels_of_other_images_follow_neither(tmp_path):
    config = write(tmp_path, quarters, count=40)
    files = sorted((tmp_path / "maps").iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    report = report_of(config)
    assert report.num > 20
    assert report.is_right is None
    assert "may be chance" in report.describe()[1]
    require_axes(report, config)


@pytest.mark.parametrize(
    ("nearer", "num", "expected"),
    [(10, 10, None), (11, 11, True), (0, 11, False), (46, 64, True), (44, 64, None), (3, 4, None)],
)
def test_chance_decides_less_than_once_in_a_thousand_times(nearer, num, expected):
    same = LabelComparison(num, 1.0, 0.0, 0.0, 0.0)
    assert AxesReport(same, same, nearer).is_right is expected


def test_which_crops_count_does_not_depend_on_the_reading(tmp_path, monkeypatch):
    seen = []
    choose = axes._choose

    def record(*arguments):
        seen.append(choose(*arguments))
        return seen[-1]

    monkeypatch.setattr(axes, "_choose", record)
    config = write(tmp_path, quarters)
    check_axes(config)
    check_axes(replace(config, swap_xy=True))
    first, second = seen[:24], seen[24:]
    assert [crop.difference for crop in first] == pytest.approx([c.difference for c in second])


def test_unreadable_images_are_left_out(tmp_path):
    config = write(tmp_path, quarters)
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    assert report_of(config).is_right is True


@pytest.mark.parametrize("setting", [{"swap_xy": True}, {"axes_teacher": TEACHER}])
def test_settings_of_maps_are_refused_for_crops(tmp_path, setting):
    config = replace(write(tmp_path, quarters), axes_teacher=None)
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: format fkd does not use it"):
        replace(config, format="fkd", **setting)


def test_the_command_line_prints_both_readings(tmp_path, capsys, monkeypatch):
    config = write(tmp_path, quarters, by_columns=True)
    monkeypatch.setattr(
        "fkd.labeling.foreign.run.load_teachers", lambda *_, **__: load_teachers([TEACHER])
    )
    words = {
        "--format": "relabel",
        "--labels": config.labels,
        "--images.root": config.images.root,
        "--classes": config.classes,
        "--out": config.out,
        "--axes_teacher": "tf_efficientnet_lite0",
    }
    command = ["import-labels", *(word for pair in words.items() for word in pair)]
    with pytest.raises(SystemExit):
        main(command)
    said = capsys.readouterr()
    assert "axes      (row, column): top-1 agreement" in said.out
    assert "add --swap_xy" in said.err
    assert not Path(config.out).exists()
    main([*command, "--swap_xy"])
    out = capsys.readouterr().out
    assert "          the labels follow (column, row), to which" in out
    assert "finished" in out


def test_verify_prints_them_of_an_imported_store(tmp_path, capsys, monkeypatch):
    config = write(tmp_path, quarters, by_columns=True)
    import_labels(config)
    teachers = load_teachers([TEACHER])
    monkeypatch.setattr(verify_images, "load_teachers_of", lambda *_: teachers)
    monkeypatch.setattr(verify_images, "spot_check", lambda *_: SpotCheckReport(SAME, 0.0))
    verify_images.verify(config.out, images=config.images, teacher=TeacherConfig("any"))
    out = capsys.readouterr().out
    assert "          the labels follow (column, row), to which" in out
    assert "import them again with --swap_xy" in out
