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
from benchmarks.claims.timing import relative
from fkd.data import ImagesConfig
from fkd.errors import ConfigError
from fkd.models import TeacherConfig
from fkd.training import StudentConfig, TrainConfig, train


@pytest.fixture(scope="module")
def config(image_folder, tmp_path_factory) -> ClaimsConfig:
    """Three classes, one seed, four epochs; a vanilla run is the teacher."""
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
        batch_size=8,
        crops_per_image=2,
        kept=1,
        kept_more=2,
        few_crops=(2,),
        seeds=2,
        timing_images=12,
        timing_repeats=2,
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
    assert all(len(line["accuracies"]) == 2 for line in lines.values())
    assert lines["vanilla-m1"]["teacher_crops"] == lines["vanilla-m1"]["label_bytes"] == 0
    assert lines["kd-m1"]["teacher_crops"] == 12 * 4
    assert lines["fkd-m2-ms1-M2"]["teacher_crops"] == 12 * 2
    assert lines["fkd-m2-ms1-M4"]["label_bytes"] > 4 * (2 + 2 + 8)
    assert sum("by the teacher" in line for line in said) == 1 + (not config.claims)
    assert "| fkd-m2-full-M4 | " in text


def test_a_finished_comparison_is_left_alone(config):
    run_claims(config, lambda line: None)
    folders = list((Path(config.out) / "runs").iterdir())
    before = {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders}
    said = []
    run_claims(config, said.append)
    assert {f: (f / "model.safetensors").stat().st_mtime_ns for f in folders} == before
    assert len(folders) == config.seeds * len(all_rows(config))


def test_fine_tuning_begins_with_the_vanilla_student_of_its_seed(config):
    run_claims(config, lambda line: None)
    for seed in range(2):
        folder = run_folder(config, "fine-tuned-discriminator-off", seed)
        assert f"vanilla-m1-seed{seed}" in (folder / "config.yaml").read_text()


def test_epochs_are_timed_in_turns(config):
    timed = replace(config, claims=(1,), timing=True)
    run_claims(timed, lambda line: None)
    timing = json.loads((Path(config.out) / "timing.json").read_text())
    assert set(timing) == {row.name for row in rows_of(1, config)}
    assert timing["vanilla-m1"]["relative"] == 1.0
    assert all(found["seconds"] > 0 and found["n"] == 2 for found in timing.values())


def test_relative_times_are_ratios_of_medians():
    found = relative({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 9.0]}, "a")
    assert found["b"]["relative"] == 2.0
    assert found["b"]["spread"] == pytest.approx((3.0 - 2.0) / 2.0)


def test_impossible_comparisons_are_refused(config):
    with pytest.raises(ConfigError, match="claims: 6 is none of"):
        replace(config, claims=(6,))
    with pytest.raises(ConfigError, match="few_crops must be at least crops_per_image, 2, got 1"):
        replace(config, few_crops=(1,))
