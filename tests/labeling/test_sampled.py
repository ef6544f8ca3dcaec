"""Stores of sampled labels, from the teacher to a student."""

import numpy as np
import pytest

from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, StoreMismatch
from fkd.labeling.foreign.run import ImportConfig
from fkd.labeling.run import label
from fkd.labeling.setup import build_setup
from fkd.labeling.store_checks import require_agreement, spot_check
from fkd.labels.codecs import decode
from fkd.labels.sampled import Sampled
from fkd.store import LabelStore, convert_store, verify_store
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train


@pytest.fixture(scope="module")
def store(make_config, tmp_path_factory) -> LabelStore:
    """The spot checks at the end have passed."""
    out = tmp_path_factory.mktemp("sampled") / "store"
    result = label(make_config(out, codec="sampled:3"))
    assert result.spot_checks.labels.top1_agreement == 1.0
    assert result.spot_checks.omitted_lead < 1e-6
    return LabelStore.open(out)


def test_draws_do_not_depend_on_what_was_labeled_before(store, make_config, files_of, tmp_path):
    """Shards of nodes in any order join to the same bytes as one run."""
    for shards in ("2:4", "0:2"):
        label(make_config(tmp_path / "store", codec="sampled:3", shards=shards))
    label(make_config(tmp_path / "store", codec="sampled:3"))
    assert files_of(tmp_path / "store") == files_of(store.path)


def test_labels_are_those_sampled_from_a_store_of_full_ones(store, make_config, tmp_path):
    label(make_config(tmp_path / "full", codec="full", value_dtype="f32"))
    converted = convert_store(
        tmp_path / "full", tmp_path / "sampled", form="plain", codec="sampled:3", value_dtype="u16"
    ).after
    rows = np.arange(store.num_images)
    ours, theirs = (decode(s.codec, s.read(rows).label, 7) for s in (store, converted))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4)


def test_another_teacher_is_seen_and_its_own_agrees_after_pruning(
    store, make_config, make_teacher, tmp_path
):
    fewer = convert_store(store.path, tmp_path / "fewer", num_crops=3, keep="uncertain").after
    assert verify_store(fewer.path) == []
    setup = build_setup(make_config(tmp_path / "unused", codec="sampled:3"), 1)
    for labels in (store, fewer):
        require_agreement(spot_check(labels, setup.source, setup.teachers, 32), labels)
    other = make_teacher(tmp_path / "other.safetensors", seed=5)
    setup = build_setup(make_config(tmp_path / "unused", codec="sampled:3", teacher=other), 1)
    with pytest.raises(StoreMismatch, match="does not hold this teacher's labels"):
        require_agreement(spot_check(store, setup.source, setup.teachers, 32), store)


def test_a_student_learns_from_sampled_and_pruned_labels(store, image_folder, tmp_path):
    fewer = convert_store(store.path, tmp_path / "fewer", num_crops=2, keep="confident").after
    config = TrainConfig(
        images=ImagesConfig(root=str(image_folder)),
        store=str(fewer.path),
        student=StudentConfig(name="test_resnet", input_size=32),
        out=str(tmp_path / "run"),
        crops_per_image=2,
        epochs=2,
        batch_size=8,
    )
    train(config)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_the_labels_of_each_teacher_are_not_sampled(make_config, make_teacher, tmp_path):
    teachers = [make_teacher(tmp_path / f"{n}.safetensors", seed=n) for n in range(2)]
    config = make_config(tmp_path / "s", teachers=teachers, codec="sampled:3", separate=True)
    with pytest.raises(ConfigError, match="leave out --separate"):
        label(config)


def test_labels_of_others_are_no_sampled_ones(image_folder):
    with pytest.raises(ConfigError, match="labels of others are no sampled:5"):
        ImportConfig(
            images=ImagesConfig(root=str(image_folder)),
            labels="labels",
            format="ml-dr",
            out="out",
            codec=Sampled(5),
        )
