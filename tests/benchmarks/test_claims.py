"""The comparisons of the paper at the smallest size: rows run, resume, and are counted right."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.claims.config import ClaimsConfig
from benchmarks.claims.expectations import Result, check_expectations
from benchmarks.claims.rows import BASE, all_rows, rows_of
from benchmarks.claims.run_all import run_claims
from benchmarks.claims.runs import run_folder, run_row, settings
from benchmarks.claims.timing import relative
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train


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


def test_the_methods_run_and_are_counted(config):
    said = []
    text = run_claims(replace(config, claims=(1,)), said.append)
    results = json.loads((Path(config.out) / "results.json").read_text())
    lines = {line["name"]: line for line in results["claims"]["1"]}
    assert list(lines) == [row.name for row in rows_of(1, config)]
    assert (Path(config.out) / "claim1.png").stat().st_size > 1000
    assert all(len(line["accuracies"]) == len(line["seconds"]) == 1 for line in lines.values())
    assert lines["vanilla-m1"]["teacher_crops"] == lines["vanilla-m1"]["label_bytes"] == 0
    assert lines["kd-m1"]["teacher_crops"] == 12 * 4
    assert lines["fkd-m2-ms1-M4"]["label_bytes"] > 4 * (2 + 2 + 8)
    assert lines["relabel"]["teacher_crops"] == 12
    assert sum("by the teacher" in line for line in said) == 2  # all crops, and the maps
    assert 0.0 <= results["networks"]["teacher_top1"] <= 100.0
    # With m = 2: online KD with 2 and 1, ReLabel, vanilla with 2 and 1. Twice with m = 1: one each.
    assert [outcome["holds"] in (True, False) for outcome in results["expectations"]] == [True] * 11
    assert "| fkd-m1-full-M4 | " in text


def test_every_row_has_settings_and_labels(config, monkeypatch):
    """Of all claims, without training."""
    made = []

    def make_labels(config, labels, say):
        made.append(labels)
        return Path("labels")

    monkeypatch.setattr("benchmarks.claims.runs.make_labels", make_labels)
    monkeypatch.setattr("benchmarks.claims.runs.make_maps", lambda config, say: Path("maps"))
    runs = {row.name: settings(config, row, 0, lambda line: None) for row in all_rows(config)}
    assert {"vanilla-m4", "fkd-m4-ms1-M4", "fkd-m2-ms2-M4", "fkd-m2-ms1-M4-iid"} < set(runs)
    assert runs["fkd-m2-ms1-M4-iid"].order == "iid"
    assert runs["kd-m2"].teacher == config.teacher
    assert ("ms:1", 2) in made  # few stored crops


def test_a_finished_comparison_is_left_alone(config):
    few = replace(config, claims=(1,))
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


def test_fine_tuning_starts_from_the_vanilla_student_of_its_seed(config):
    (row,) = [row for row in rows_of(5, config) if row.name == "fine-tuned-vanilla"]
    for seed in range(2):
        run = settings(config, row, seed, lambda line: None)
        assert run.student.checkpoint == str(run_folder(config, "vanilla-m1", seed))
        assert run.optimizer.lr == config.fine_tuning_lr
    names = [row.name for row in all_rows(replace(config, claims=(5,)))]
    assert names.index("vanilla-m1") < names.index("fine-tuned-vanilla")


def test_a_trained_student_is_fine_tuned(config):
    (row,) = [row for row in rows_of(5, config) if row.name == "fine-tuned-discriminator-off"]
    for started in (BASE, row):
        assert run_row(config, started, 0, lambda line: None).val_top1 is not None


def test_epochs_are_timed_in_turns(config):
    timed = replace(config, claims=(4,), timing=True)
    run_claims(timed, lambda line: None)
    timing = json.loads((Path(config.out) / "timing.json").read_text())
    assert set(timing) == {"vanilla-m1", *(row.name for row in rows_of(4, config))}
    assert timing["vanilla-m1"]["relative"] == 1.0
    assert all(times["seconds"] > 0 and times["n"] == 1 for times in timing.values())
    networks = json.loads((Path(config.out) / "networks.json").read_text())
    assert networks["ratio"] == networks["teacher_ms"] / networks["student_ms"]
    assert networks["teacher_pixels"] == networks["student_pixels"] == 32


def test_relative_times_are_ratios_of_medians():
    times = relative({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 9.0]}, "a")
    assert times["b"]["relative"] == 2.0
    assert times["b"]["spread"] == pytest.approx((2.5 - 2.0) / 2.0)  # of the ratios 2, 2, 3


def _result(name: str, accuracies: list[float], relative: float | None = None) -> Result:
    return Result(name, accuracies, [1.0] * len(accuracies), relative, 0, 0.0)


def test_an_accuracy_within_the_larger_deviation_counts_as_equal(config):
    ours = _result("fkd-m2-ms1-M4", [80.0, 80.0])
    near = _result("kd-m1", [80.0, 82.0])  # 81 +- 1.41
    (outcome,) = check_expectations(config, [ours, near], {})
    assert outcome.holds
    far = _result("kd-m1", [81.4, 81.6])
    (outcome,) = check_expectations(config, [ours, far], {})
    assert not outcome.holds
    assert "**no** (80.00 ± 0.00 %, n = 2 against 81.50 ± 0.14 %, n = 2)" in str(outcome)


def test_fkd_is_compared_at_the_same_m_and_with_one_crop(config):
    results = [
        _result("fkd-m2-ms1-M4", [80.0]),
        _result("fkd-m1-ms1-M4", [82.0]),
        _result("fkd-m1-full-M4", [80.0]),
        _result("kd-m2", [79.0]),
        _result("kd-m1", [81.0]),
        _result("vanilla-m1", [70.0]),
    ]
    outcomes = check_expectations(config, results, {})
    assert [(outcome.expectation[:14], outcome.holds) for outcome in outcomes] == [
        ("FKD with m = 2", True),  # online KD, m = 2
        ("FKD with m = 2", False),  # online KD, m = 1
        ("FKD with m = 2", True),  # vanilla
        ("FKD with m = 1", True),  # keeping one class
        ("FKD with m = 1", True),
        ("FKD with m = 1", False),  # keeping all of them
        ("FKD with m = 1", True),
    ]


def test_costs_hold_only_with_a_teacher_that_costs_enough(config):
    def holds(ours, teacher_cost):
        results = [_result("fkd-m2-ms1-M4", [80.0], ours), _result("kd-m1", [80.0], 3.0)]
        outcomes = check_expectations(config, results, {"ratio": teacher_cost})
        return [outcome.holds for outcome in outcomes]

    assert holds(0.9, 6.1) == [True, True, True]
    assert holds(0.9, 5.9) == [True, True, False]
    assert holds(1.3, 6.1) == [True, False, False]


def test_nothing_is_said_of_what_is_not_finished(config):
    assert check_expectations(config, [_result("vanilla-m1", [80.0])], {}) == []


def test_impossible_comparisons_are_refused(config):
    with pytest.raises(ConfigError, match="claims: 6 is none of"):
        replace(config, claims=(6,))
    with pytest.raises(ConfigError, match="few_crops must be at least crops_per_image, 2, got 1"):
        replace(config, few_crops=(1,))
    with pytest.raises(ConfigError, match="timing_images must be at least two batches, 8, got 7"):
        replace(config, timing_images=7)
