"""The claims in miniature, in a miniature: every row runs, goes on, and is counted right."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/ is not installed

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.rows import all_rows, rows_of
from benchmarks.claims.running import run_folder
from benchmarks.claims.session import run_claims
from benchmarks.claims.timing import relative, steady_seconds
from benchmarks.claims.verdicts import Line, judge
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.models import TeacherConfig
from fkd.training import StudentConfig, TrainConfig, train


@pytest.fixture(scope="module")
def config(image_folder, tmp_path_factory) -> ClaimsConfig:
    """Three classes, one seed, four epochs; a vanilla run is the teacher; all tests share `out`."""
    out = tmp_path_factory.mktemp("claims")
    images = ImagesConfig(root=str(image_folder))
    student = StudentConfig(name="test_resnet", input_size=32)
    teacher = TrainConfig(
        out=str(out / "teacher"),
        images=images,
        student=student,
        method="vanilla",
        epochs=1,
        crops_per_image=1,
        batch_size=8,
        num_workers=0,
    )
    return ClaimsConfig(
        images=images,
        val=images,
        teacher=TeacherConfig(checkpoint=str(train(teacher).path)),
        student=student,
        out=str(out / "claims"),
        epochs=4,
        max_images=12,
        batch_size=4,
        crops_per_image=2,
        kept=1,
        kept_more=2,
        few_crops=(2,),
        seeds=1,
        timing_images=12,
        timing_repeats=1,
        num_workers=0,
    )


def test_every_row_runs_and_is_counted(config):
    said = []
    text = run_claims(config, said.append)
    results = json.loads((Path(config.out) / "results.json").read_text())
    for claim in config.claims:
        names = [line["name"] for line in results["claims"][str(claim)]]
        assert names == [row.name for row in rows_of(claim, config)]
        assert (Path(config.out) / f"claim{claim}.png").stat().st_size > 1000
    lines = {line["name"]: line for claim in results["claims"].values() for line in claim}
    assert all(len(line["accuracies"]) == len(line["seconds"]) == 1 for line in lines.values())
    assert lines["vanilla-m1"]["teacher_crops"] == lines["vanilla-m1"]["label_bytes"] == 0
    assert lines["kd-m1"]["teacher_crops"] == 12 * 4
    assert lines["fkd-m2-ms1-M2"]["teacher_crops"] == 12 * 2
    assert lines["fkd-m2-ms1-M4"]["label_bytes"] > 4 * (2 + 2 + 8)
    assert lines["relabel"]["teacher_crops"] == 12
    assert sum("by the teacher" in line for line in said) == 2  # all crops, and the maps
    assert 0.0 <= results["networks"]["teacher_top1"] <= 100.0
    # With m = 2: online KD with 2 and 1, ReLabel, vanilla with 2 and 1. Twice with m = 1: one each.
    assert [verdict["holds"] in (True, False) for verdict in results["verdicts"]] == [True] * 11
    assert "| fkd-m2-full-M4 | " in text


def test_a_finished_comparison_is_left_alone(config):
    few = replace(config, claims=(4,))
    run_claims(few, lambda line: None)
    folders = [run_folder(few, row.name, 0) for row in all_rows(few)]
    before = [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders]
    run_claims(few, lambda line: None)
    assert [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders] == before


def test_what_is_finished_is_reported_before_the_end(config, tmp_path):
    class Killed(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("run 2"):
            raise Killed

    with pytest.raises(Killed):
        run_claims(replace(config, out=str(tmp_path), claims=(1,)), stop)
    lines = json.loads((tmp_path / "results.json").read_text())["claims"]["1"]
    assert [line["name"] for line in lines] == ["vanilla-m1", "vanilla-m2"]


def test_fine_tuning_begins_with_the_vanilla_student_of_its_seed(config):
    run_claims(replace(config, seeds=2, claims=(5,)), lambda line: None)
    for seed in range(2):
        folder = run_folder(config, "fine-tuned-discriminator-off", seed)
        assert f"vanilla-m1-seed{seed}" in (folder / "config.yaml").read_text()
    lines = json.loads((Path(config.out) / "results.json").read_text())["claims"]["5"]
    assert [len(line["accuracies"]) for line in lines] == [2] * 6


def test_epochs_are_timed_in_turns(config):
    timed = replace(config, claims=(1,), timing=True)
    run_claims(timed, lambda line: None)
    timing = json.loads((Path(config.out) / "timing.json").read_text())
    assert set(timing) == {row.name for row in rows_of(1, config)}
    assert timing["vanilla-m1"]["relative"] == 1.0
    assert all(found["seconds"] > 0 and found["n"] == 1 for found in timing.values())
    networks = json.loads((Path(config.out) / "networks.json").read_text())
    assert networks["ratio"] == networks["teacher_ms"] / networks["student_ms"]
    assert networks["teacher_pixels"] == networks["student_pixels"] == 32


def test_only_steady_lines_are_timed():
    """Two passes of two epochs, four lines each: the first pass, and the line after it, are out."""
    speeds = [1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 10.0, 20.0]
    lines: list[dict[str, float | None]] = [
        {"epoch": 0.5 * (i + 1), "crops_per_second": speed} for i, speed in enumerate(speeds)
    ]
    expected = (0.5 / 10 + 0.5 / 10 + 0.5 / 20) / 1.5
    assert steady_seconds(lines, 4, 2) == pytest.approx(expected)


def test_relative_times_are_ratios_of_medians():
    found = relative({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 9.0]}, "a")
    assert found["b"]["relative"] == 2.0
    assert found["b"]["spread"] == pytest.approx((2.5 - 2.0) / 2.0)  # of the ratios 2, 2, 3


def _line(name: str, accuracies: list[float], relative: float | None = None) -> Line:
    return Line(name, accuracies, [1.0] * len(accuracies), relative, 0, 0.0)


def test_an_accuracy_within_the_larger_deviation_counts_as_equal(config):
    ours = _line("fkd-m2-ms1-M4", [80.0, 80.0])
    near = _line("kd-m1", [80.0, 82.0])  # 81 +- 1.41
    (verdict,) = judge(config, [ours, near], {})
    assert verdict.holds
    far = _line("kd-m1", [81.4, 81.6])
    (verdict,) = judge(config, [ours, far], {})
    assert not verdict.holds
    assert "**no** (80.00 ± 0.00 %, n = 2 against 81.50 ± 0.14 %, n = 2)" in str(verdict)


def test_fkd_is_compared_at_the_same_m_and_with_one_crop(config):
    lines = [
        _line("fkd-m2-ms1-M4", [80.0]),
        _line("fkd-m1-ms1-M4", [82.0]),
        _line("fkd-m1-full-M4", [80.0]),
        _line("kd-m2", [79.0]),
        _line("kd-m1", [81.0]),
        _line("vanilla-m1", [70.0]),
    ]
    assert [(v.says[:14], v.holds) for v in judge(config, lines, {})] == [
        ("FKD with m = 2", True),  # online KD, m = 2
        ("FKD with m = 2", False),  # online KD, m = 1
        ("FKD with m = 2", True),  # vanilla
        ("FKD with m = 1", True),  # keeping one class
        ("FKD with m = 1", True),
        ("FKD with m = 1", False),  # keeping all of them
        ("FKD with m = 1", True),
    ]


def test_costs_hold_only_with_a_teacher_that_costs_enough(config):
    lines = [_line("fkd-m2-ms1-M4", [80.0], 0.9), _line("kd-m1", [80.0], 3.0)]
    assert [verdict.holds for verdict in judge(config, lines, {"ratio": 6.1})] == [True] * 3
    assert [verdict.holds for verdict in judge(config, lines, {"ratio": 5.9})][-1] is False
    lines[0] = replace(lines[0], relative=1.3)
    assert [verdict.holds for verdict in judge(config, lines, {"ratio": 6.1})][1:] == [False] * 2


def test_nothing_is_said_of_what_is_not_finished(config):
    assert judge(config, [_line("vanilla-m1", [80.0])], {}) == []


def test_impossible_comparisons_are_refused(config):
    with pytest.raises(ConfigError, match="claims: 6 is none of"):
        replace(config, claims=(6,))
    with pytest.raises(ConfigError, match="few_crops must be at least crops_per_image, 2, got 1"):
        replace(config, few_crops=(1,))
    with pytest.raises(ConfigError, match="timing_images must be at least two batches, 8, got 7"):
        replace(config, timing_images=7)
