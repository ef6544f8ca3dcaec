"""Final and best values, and means over seeds, against naive computations."""

import numpy as np
import pytest

from fkd.viewing.results import (
    differing_settings,
    evaluated_metrics,
    group_by_seed,
    label_of,
    outcome_of,
)
from fkd.viewing.runs import read_runs
from tests.viewing.folders import ENVIRONMENT, lines_of, training_line, write_run


def read(*folders):
    return read_runs([str(folder) for folder in folders])[0]


def groups_of(runs):
    metrics = evaluated_metrics(runs)
    return group_by_seed(runs, [outcome_of(run, metrics) for run in runs], metrics)


def test_final_best_time_and_speed(tmp_path):
    (run,) = read(write_run(tmp_path / "a"))
    assert evaluated_metrics([run]) == ["val_top1", "val_top5"]
    outcome = outcome_of(run, ["val_top1", "val_top5"])
    assert outcome.finals == {"val_top1": 40.0, "val_top5": 70.0}
    assert outcome.best == (50.0, 2.0)
    assert (outcome.loss, outcome.seconds) == (1.0, 31.0)
    assert (outcome.crops_per_second, outcome.images_per_second) == (400.0, 100.0)  # m is 4


def test_of_a_loss_the_lowest_value_is_the_best(tmp_path):
    lines = [{"step": i, "epoch": i, "val_loss": v} for i, v in enumerate((3.0, 1.0, 2.0), 1)]
    (run,) = read(write_run(tmp_path / "a", lines))
    assert outcome_of(run, ["val_loss"]).best == (1.0, 2.0)


def test_a_run_without_results_has_none(tmp_path):
    (run,) = read(write_run(tmp_path / "a", []))
    outcome = outcome_of(run, evaluated_metrics([run]))
    assert outcome.finals == {}
    assert outcome.best is outcome.loss is outcome.images_per_second is None


def test_neighbors_of_embeddings_come_first(tmp_path):
    lines = [training_line(1, 1.0, 2.0), {"step": 1, "epoch": 1.0, "val_knn": 44.0, "a_score": 1.0}]
    (run,) = read(write_run(tmp_path / "a", lines))
    assert evaluated_metrics([run]) == ["val_knn", "a_score"]
    assert label_of("val_top1") == "val top-1"


def test_means_and_deviations_over_seeds(tmp_path):
    finals = [41.0, 44.0, 45.5]
    folders = [
        write_run(tmp_path / f"fkd-seed{seed}", lines_of((30.0, final)), seed=seed)
        for seed, final in enumerate(finals)
    ]
    folders.append(write_run(tmp_path / "other", seed=0, epochs=9))
    runs = read(*folders)
    several, single = groups_of(runs)
    assert (several.name, several.runs, several.unfinished) == ("fkd", [0, 1, 2], 0)
    assert single.runs == [3]
    mean, deviation, n = several.means["val_top1"]
    assert (mean, n) == (pytest.approx(np.mean(finals)), 3)
    assert deviation == pytest.approx(np.std(finals, ddof=1))
    assert single.means["val_top1"][1] is None
    assert differing_settings(runs) == ["epochs", "seed"]


def test_an_unfinished_run_is_in_no_mean(tmp_path):
    runs = read(
        write_run(tmp_path / "seed0", lines_of((30.0,)), seed=0),
        write_run(tmp_path / "seed1", lines_of((1.0,)), seed=1, finished=False),
    )
    (group,) = groups_of(runs)
    assert group.unfinished == 1
    assert group.means["val_top1"] == (30.0, None, 1)


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ({"seed": 1, "num_workers": 3}, True),
        ({"seed": 1, "images": {"root": "elsewhere", "format": "auto"}}, True),
        ({"seed": 1, "images": {"root": "photos", "format": "flat"}}, False),
        ({"seed": 1, "epochs": 9}, False),
        ({"seed": 1, "student": {"name": "resnet18", "checkpoint": "init-seed1.pt"}}, True),
        ({"seed": 1, "student": {"name": "resnet18", "checkpoint": "init-seed12.pt"}}, False),
        ({"seed": 1, "environment": {"data": {"images": {"num_images": 3}}}}, False),
        ({"seed": 1, "environment": {"hardware": {"device": "cuda"}}}, True),
    ],
)
def test_only_runs_that_differ_by_seed_alone_are_siblings(tmp_path, other, alike):
    first = {"student": {"name": "resnet18", "checkpoint": "init-seed0.pt"}}
    first = first if "student" in other else {}
    runs = read(
        write_run(tmp_path / "a", num_workers=2, environment=ENVIRONMENT, **first),
        write_run(tmp_path / "b", **({"num_workers": 2} | other)),
    )
    assert len(groups_of(runs)) == (1 if alike else 2)


def test_runs_without_settings_are_nobodys_siblings(tmp_path):
    folders = [write_run(tmp_path / name) for name in "ab"]
    for folder in folders:
        (folder / "config.yaml").unlink()
    assert len(groups_of(read(*folders))) == 2


def test_a_setting_that_an_older_run_lacks_is_null(tmp_path):
    runs = read(write_run(tmp_path / "a", mean=None), write_run(tmp_path / "b"))
    assert differing_settings(runs) == []
