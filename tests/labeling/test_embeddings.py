"""Teachers without classes: their features are stored, compared by cosine, and read again."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from fkd.crops.augment import AugmentConfig
from fkd.crops.replay import sample_crops
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.run import label
from fkd.labeling.store_checks import load_teachers_of, require_agreement, spot_check
from fkd.labels.comparison import EmbeddingComparison
from fkd.models.teacher import load_teachers
from fkd.store import LabelStore, verify_store


@pytest.fixture
def config(make_config, teacher, tmp_path):
    features = replace(teacher, output="features")
    return make_config(tmp_path / "store", teacher=features, codec="logits")


def test_features_are_stored_without_class_names(config, image_source):
    store = label(config).store
    assert store.config["outputs"] == "features"
    assert not store.is_of_classes
    assert list(store.class_names) == []
    network = timm.create_model(config.teacher.name, num_classes=7)
    assert store.num_classes == network.num_features
    assert store.config["teachers"][0]["output"] == "features"
    assert verify_store(config.out) == []


def test_checks_compare_directions(config, image_source):
    store = label(config).store
    teachers = load_teachers_of(store, [config.teacher])
    report = spot_check(store, image_source, teachers)
    assert isinstance(report, EmbeddingComparison)
    assert report.num == 64
    assert report.least_cosine > 0.9999
    require_agreement(report, store)


def test_embeddings_of_another_teacher_are_seen(config, image_source, make_teacher, tmp_path):
    store = label(config).store
    other = replace(make_teacher(tmp_path / "other.safetensors", seed=1), output="features")
    with pytest.raises(StoreMismatch, match="another teacher"):
        load_teachers_of(store, [other])
    report = spot_check(store, image_source, load_teachers([other]))
    with pytest.raises(StoreMismatch, match=r"a mean cosine of at least 0\.9999 is expected"):
        require_agreement(report, store)


def test_features_are_kept_whole_by_default(config):
    assert label(replace(config, codec=None)).store.codec.name == "logits"


def test_codecs_of_classes_are_refused(config, make_config, teacher, tmp_path):
    features = replace(teacher, output="features")
    with pytest.raises(ConfigError, match="features are no classes and have the codec logits"):
        label(make_config(tmp_path / "s", teacher=features, codec="ms:3"))


def test_a_stopped_run_goes_on_to_the_same_bytes(config, files_of, tmp_path):
    label(config)
    again = replace(config, out=str(tmp_path / "again"))
    label(again)
    shard = tmp_path / "again" / "shards" / "00001.safetensors"
    (tmp_path / "again" / "manifest.json").unlink()
    (tmp_path / "again" / "commits" / "00001.json").unlink()
    shard.unlink()
    label(again)
    assert files_of(again.out) == files_of(config.out)
    values = LabelStore.open(again.out).read(np.arange(2)).label.values
    assert torch.as_tensor(values).isfinite().all()


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_records_of_the_preset_are_stored_and_the_same_after_a_stop(
    config, files_of, image_source, tmp_path, form
):
    config = replace(config, teacher_augment=AugmentConfig(preset="s2bnn"), form=form)
    store = label(config).store
    assert "preset" not in store.config["teacher_augment"]
    for row, size in enumerate(store.images(np.arange(len(store))).size.tolist()):
        drawn = sample_crops(
            config.crops,
            image_source.key(row),
            tuple(size),
            np.arange(5),
            AugmentConfig(preset="s2bnn"),
        )
        stored = store.read(np.array([row])).records[0]
        assert stored.extra.keys() == {"jitter", "jitter_order", "gray", "blur"}
        for name, values in drawn.extra.items():
            np.testing.assert_array_equal(stored.extra[name], values)
    report = spot_check(store, image_source, load_teachers_of(store, [config.teacher]))
    assert report.least_cosine > 0.9999
    again = replace(config, out=str(tmp_path / "again"))
    label(again)
    for file in ("manifest.json", "commits/00001.json", "shards/00001.safetensors"):
        (tmp_path / "again" / file).unlink()
    label(again)
    assert files_of(again.out) == files_of(config.out)
