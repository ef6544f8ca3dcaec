"""Teachers without classes: their features are stored, compared by cosine, and read again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fkd.crops.augment import AugmentConfig
from fkd.crops.replay import sample_crops
from fkd.data.sources import ImagesConfig, load
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.config import LabelMapsConfig
from fkd.labeling.run import Progress, label
from fkd.labeling.store_checks import load_teachers_of, require_agreement, spot_check
from fkd.labels.comparison import EmbeddingComparison
from fkd.models import zoo
from fkd.models.architectures.embedders import MlpHead
from fkd.models.teacher import TeacherConfig, load_teachers
from fkd.store import LabelStore, verify_store
from fkd.viewing.summary import summarize


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


@pytest.mark.parametrize("output", ["features", "head"])
def test_killed_and_resumed_the_store_has_the_same_bytes(
    output, make_config, files_of, tmp_path, image_source, spec
):
    """A backbone without a classifier, from a file, with and without a projection head."""
    done = make_config(tmp_path / "done", teacher=spec(output), codec="logits")
    label(done)
    killed = replace(done, out=str(tmp_path / "killed"))

    class Kill(Progress):
        def advanced(self, num_crops):
            if (Path(killed.out) / "commits" / "00001.json").exists():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(killed, Kill())
    assert not (Path(killed.out) / "manifest.json").exists()
    store = label(killed).store
    assert files_of(killed.out) == files_of(done.out)
    report = spot_check(store, image_source, load_teachers_of(store, [killed.teacher]))
    assert report.num == 64
    assert f"{report.mean_cosine:.3f}" == "1.000"


@pytest.fixture
def spec(tmp_path):
    """A teacher from files: a network of timm without its head, and a head."""

    def make(output, name="test_vit.r160_in1k"):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=0, img_size=32)
        save_file(network.state_dict(), tmp_path / "backbone.safetensors")
        save_file(MlpHead(network.num_features, 8).state_dict(), tmp_path / "head.safetensors")
        return TeacherConfig(
            name,
            output=output,
            checkpoint=str(tmp_path / "backbone.safetensors"),
            head=str(tmp_path / "head.safetensors") if output == "head" else None,
            input_size=32,
        )

    return make


def test_the_license_of_the_teacher_is_in_the_store(make_config, spec, tmp_path):
    store = label(make_config(tmp_path / "store", teacher=spec("features"), codec="logits")).store
    assert store.config["teachers"][0]["license"] == "apache-2.0"
    assert [teacher.license for teacher in store.provenance.teachers] == ["apache-2.0"]
    assert summarize(store).facts["teacher's license"] == "apache-2.0"


def test_other_words_for_a_license_are_no_other_teacher(make_config, spec, tmp_path, monkeypatch):
    store = label(make_config(tmp_path / "store", teacher=spec("features"), codec="logits")).store
    monkeypatch.setattr(zoo, "_license", lambda *arguments: "Apache License 2.0")
    assert load_teachers_of(store, [spec("features")])


def test_a_store_without_a_known_license_says_nothing_of_it(config):
    store = label(config).store
    assert "license" not in store.config["teachers"][0]
    assert "teacher's license" not in summarize(store).facts


@pytest.mark.parametrize("output", ["features", "head"])
def test_label_maps_hold_classes(output):
    teacher = TeacherConfig("test_resnet", output=output)
    with pytest.raises(ConfigError, match=rf"label maps hold classes, not {output}"):
        LabelMapsConfig(images=ImagesConfig(root="x"), teacher=teacher, out="y")


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
            load(image_source, row).content_key,
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
