"""How embeddings are stored: value types, projections, and the bytes that the plan says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.config import ProjectionConfig
from fkd.labeling.run import label
from fkd.labeling.store_checks import load_teachers_of, require_agreement, spot_check
from fkd.store import verify_store


@pytest.fixture
def config(make_config, teacher, tmp_path):
    features = replace(teacher, output="features")
    return make_config(tmp_path / "store", teacher=features, codec="logits")


@pytest.mark.parametrize("value_dtype", ["f16", "f32", "i8"])
@pytest.mark.parametrize("form", ["plain", "compact"])
def test_values_are_stored_in_every_way_and_still_compare(config, image_source, value_dtype, form):
    store = label(replace(config, value_dtype=value_dtype, form=form)).store
    assert verify_store(config.out) == []
    report = spot_check(store, image_source, load_teachers_of(store, [config.teacher]))
    assert report.least_cosine > 0.99999
    require_agreement(report, store)


def test_probabilities_have_no_scale(config, make_config, tmp_path):
    with pytest.raises(ConfigError, match="value_dtype: i8 is for codec logits"):
        label(make_config(tmp_path / "s", codec="ms:3", value_dtype="i8"))
    with pytest.raises(ConfigError, match="value_dtype: i8 is for codec logits"):
        label(replace(make_config(tmp_path / "s"), codec=None, value_dtype="i8"))
    assert not (tmp_path / "s").exists()


@pytest.fixture
def projected(config):
    return replace(config, projection=ProjectionConfig(dims=12, seed=3))


def test_features_are_projected_before_they_are_stored(config, projected, tmp_path):
    whole = label(replace(config, value_dtype="f32", out=str(tmp_path / "whole"))).store
    store = label(replace(projected, value_dtype="f32")).store
    assert store.num_classes == 12
    assert store.config["projection"]["num_features"] == whole.num_classes
    assert store.config["projection"]["seed"] == 3
    rows = np.arange(store.num_images)
    before, after = (s.read(rows).label.values.astype(np.float64) for s in (whole, store))
    matrix = store.provenance.projection.matrix()
    assert matrix.shape == (whole.num_classes, 12)
    np.testing.assert_allclose(after, before @ matrix, rtol=1e-4, atol=1e-5 * np.abs(before).max())


def test_checks_project_too(projected, image_source):
    store = label(projected).store
    report = spot_check(store, image_source, load_teachers_of(store, [projected.teacher]))
    assert report.num == 64
    assert report.least_cosine > 0.9999


def test_a_stopped_projected_run_goes_on_to_the_same_bytes(projected, files_of, tmp_path):
    label(projected)
    again = replace(projected, out=str(tmp_path / "again"))
    label(again)
    for name in ("manifest.json", "commits/00002.json", "shards/00002.safetensors"):
        (tmp_path / "again" / name).unlink()
    label(again)
    assert files_of(again.out) == files_of(projected.out)


def test_another_seed_is_another_store(projected):
    label(projected)
    with pytest.raises(StoreMismatch, match=r"projection\.seed: 3 in the store, 4 now"):
        label(replace(projected, projection=ProjectionConfig(dims=12, seed=4)))


def test_what_cannot_be_projected_is_refused(config, make_config, tmp_path):
    with pytest.raises(ConfigError, match=r"projection\.dims: 5000 is above the \d+ features"):
        label(replace(config, projection=ProjectionConfig(dims=5000)))
    with pytest.raises(ConfigError, match=r"projection\.dims: classes are not projected"):
        label(make_config(tmp_path / "s", projection=ProjectionConfig(dims=3)))
    for options in ({"dims": 0}, {"dims": 2.5}, {"seed": 1}, {"dims": 3, "seed": "x"}):
        with pytest.raises(ConfigError, match=r"projection\."):
            ProjectionConfig(**options)


@pytest.mark.parametrize("value_dtype", ["f16", "f32", "i8"])
@pytest.mark.parametrize("dims", [None, 12])
def test_the_plan_counts_the_bytes_of_features(config, planned, value_dtype, dims):
    config = replace(config, value_dtype=value_dtype, projection=ProjectionConfig(dims=dims))
    cost = planned(config)
    label(config)
    real = sum(path.stat().st_size for path in Path(config.out).rglob("*") if path.is_file())
    assert cost.num_bytes == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("value_dtype", ["f16", "f32", "i8"])
def test_the_plan_of_packed_features_is_near(config, planned, value_dtype):
    config = replace(config, value_dtype=value_dtype, form="compact")
    cost = planned(config)
    label(config)
    real = sum(path.stat().st_size for path in Path(config.out).rglob("*") if path.is_file())
    assert cost.num_bytes == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("setting", [{"min_accuracy": 0.5}, {"classes": "dataset"}])
def test_settings_of_classes_are_refused(config, setting):
    with pytest.raises(ConfigError, match=rf"{next(iter(setting))}: .*no classes; leave"):
        label(replace(config, **setting))
    assert not Path(config.out).exists()


def test_the_impact_of_fast_numerics_is_a_cosine(config):
    impact = label(replace(config, numerics="fast")).precision_impact
    assert impact.labels.mean_cosine > 0.999
    assert "embeddings compared: cosine 1.000" in str(impact)
    assert "top-" not in str(impact)


def test_logits_of_classes_with_a_scale_agree_with_their_teacher(
    make_config, image_source, tmp_path
):
    """Compared with logits that are rounded alike: a step of theirs is seen in probabilities."""
    config = make_config(tmp_path / "s", codec="logits", value_dtype="i8")
    store = label(config).store
    report = spot_check(store, image_source, load_teachers_of(store, [config.teacher]))
    assert report.labels.mean_kl < 1e-6
    assert report.labels.top1_agreement == 1.0
