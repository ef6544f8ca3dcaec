"""Fewer crops of each image, by a criterion."""

import numpy as np
import pytest

from fkd.crops.sampling import content_streams
from fkd.errors import ConfigError
from fkd.labels.codecs import decode
from fkd.labels.sampled import Sampled, draw_labels
from fkd.store import LabelStore, convert_store, verify_store
from tests.store.test_convert import make

KEEP = ["confident", "uncertain", "agree"]


@pytest.fixture(params=["full", "ms:2", "mr:2"])
def plain(lab, tmp_path, request):
    return make(lab, tmp_path / "plain", codec=request.param, extras=lab.JITTER)


def naive(q, keep):
    """Scores of the crops of an image from its labels (M, C)."""
    if keep == "agree":
        return q[:, q.mean(0).argmax()]
    return q.max(1) if keep == "confident" else -q.max(1)


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("form", ["plain", "compact"])
def test_each_image_keeps_the_crops_that_the_criterion_wants(plain, tmp_path, keep, form):
    done = convert_store(plain.path, tmp_path / "fewer", form=form, num_crops=2, keep=keep)
    assert verify_store(done.after.path) == []
    assert done.after.config["kept_crops"] == {"keep": keep, "of": 3}
    rows = np.flatnonzero(plain.labeled(np.arange(plain.num_images)))
    kept = []
    for row in rows:
        image = plain.read([row])
        q = decode(plain.codec, image.label, plain.num_classes).double().numpy()
        numbers = np.sort(np.argsort(-naive(q, keep), kind="stable")[:2])
        ours = done.after.read([row])
        np.testing.assert_array_equal(ours.records.box, image.records.box[:, numbers])
        np.testing.assert_array_equal(ours.records.flip, image.records.flip[:, numbers])
        kept.append(numbers.tolist())
    assert len({tuple(numbers) for numbers in kept}) > 1  # images differ
    assert done.comparison.num == 2 * len(rows)
    assert done.comparison.top1_agreement == 1.0
    places = dict(zip(rows.tolist(), kept, strict=True))
    expected = [
        (c.row, places[c.row].index(c.crop), c.sha256)
        for c in plain.canaries
        if c.crop in places[c.row]
    ]
    assert [(c.row, c.crop, c.sha256) for c in done.after.canaries] == expected


def test_boxes_of_chosen_crops_are_stored_and_those_of_the_first_drawn_again(lab, tmp_path):
    plain = make(lab, tmp_path / "plain")
    for keep, geometry in (("first", "recomputed"), ("confident", "stored")):
        config = convert_store(plain.path, tmp_path / keep, num_crops=2, keep=keep).after.config
        assert config["geometry"] == geometry
        assert ("kept_crops" in config) == (keep != "first")
    whole = convert_store(plain.path, tmp_path / "whole", num_crops=3, keep="confident").after
    assert whole.config["geometry"] == "recomputed"  # nothing was left out


def test_what_cannot_be_chosen_is_refused(lab, tmp_path):
    plain = make(lab, tmp_path / "plain")
    with pytest.raises(ConfigError, match="say how many"):
        convert_store(plain.path, tmp_path / "a", keep="confident")
    with pytest.raises(ConfigError, match="keep: 'best' is none of first, confident"):
        convert_store(plain.path, tmp_path / "a", num_crops=2, keep="best")
    with pytest.raises(ConfigError, match="1 to 3 crops"):
        convert_store(plain.path, tmp_path / "a", num_crops=4, keep="confident")


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_full_labels_become_sampled_ones_by_the_numbers_of_their_crops(lab, tmp_path, form):
    plain = make(lab, tmp_path / "plain", codec="full", value_dtype="f32")
    done = convert_store(
        plain.path, tmp_path / "s", form=form, num_crops=2, keep="agree", codec="sampled:2"
    )
    assert done.after.codec == Sampled(2)
    assert verify_store(done.after.path) == []
    row = 0
    image = plain.read([row])
    q = decode(plain.codec, image.label, plain.num_classes)
    numbers = np.sort(np.argsort(-naive(q.double().numpy(), "agree"), kind="stable")[:2])
    seed = plain.config["crops"]["seed"]
    draws = draw_labels(content_streams(seed, image.images.crc32, image.images.num_bytes), numbers)
    expected = Sampled(2).encode(q[numbers], draws)
    np.testing.assert_array_equal(done.after.read([row]).label.ids[0], expected.ids)
    found = done.after.read([row]).label.values[0]
    np.testing.assert_allclose(found, expected.values, atol=5e-3)
    again = convert_store(plain.path, tmp_path / "t", form=form, codec="sampled:2").after
    assert LabelStore.open(again.path).num_crops == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [("ms:3", "sampled:2"), ("sampled:3", "mr:2"), ("sampled:3", "hard"), ("mr:3", "sampled:3")],
)
def test_drawn_classes_are_no_top_k(lab, tmp_path, old, new):
    plain = make(lab, tmp_path / "plain", codec="full")
    if old.startswith("sampled"):
        plain = convert_store(plain.path, tmp_path / "s", form="plain", codec=old).after
    else:
        plain = make(lab, tmp_path / "top", codec=old)
    with pytest.raises(ConfigError, match=f"do not hold what {new} needs"):
        convert_store(plain.path, tmp_path / "out", codec=new)
