"""Exact and fast numerics: what a store says about them, and what is measured and told."""

import math

import numpy as np
import pytest
import torch

from fkd.crops.replay import replay
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.labeling.precision_impact import PrecisionImpact, measure_precision_impact
from fkd.labeling.run import Progress, label
from fkd.labeling.setup import build_setup
from fkd.labels.comparison import LabelComparison
from fkd.models.numerics import exact_numerics
from fkd.store import LabelStore


class Listener(Progress):
    """Keeps what a run says at its start."""

    def started(self, start):
        self.impact = start.precision_impact


def measure(config, autocast="bf16"):
    with exact_numerics() as passes:
        return measure_precision_impact(build_setup(config, passes), autocast)


def naive(config, report):
    """The report once more, crop by crop, from the definitions."""
    source = open_source(config.images)
    with exact_numerics() as passes:
        setup = build_setup(config, passes)
        (view,) = setup.teachers.views
        crops = [
            replay(load(source, i).image, setup.prepare((0, i)).row.records, *view[:2])
            for i in range(len(source))
        ]
        answers = [
            torch.cat([setup.teachers.probabilities([c], autocast=a) for c in crops]).double()
            for a in (None, "bf16")
        ]
    kl, distance, first, kept = [], [], [], []
    for p, q in zip(*(answer.tolist() for answer in answers), strict=True):
        kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        distance.append(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
        order = [sorted(range(len(x)), key=lambda c: -x[c]) for x in (p, q)]
        first.append(q[order[0][0]] == max(q))  # bf16 may make two classes equal
        kept.append(set(order[0][: report.kept]) == set(order[1][: report.kept]))
    return np.mean(kl), max(kl), np.mean(distance), np.mean(first), np.mean(kept)


def test_the_impact_is_that_of_the_definitions(make_config, tmp_path):
    config = make_config(tmp_path / "store", numerics="fast", batch_size=5)
    report = measure(config)
    assert report.labels.num == 15 * 5  # all crops: there are fewer than would be sampled
    assert report.kept == 3
    found = (report.labels.mean_kl, report.labels.max_kl, report.labels.total_variation)
    mean_kl, max_kl, distance, first, kept = naive(config, report)
    np.testing.assert_allclose(found, (mean_kl, max_kl, distance), rtol=0.02)
    assert report.labels.mean_kl > 1e-7  # bf16 does move labels
    assert (report.labels.top1_agreement, report.same_kept) == pytest.approx((first, kept))


@pytest.mark.parametrize(
    ("codec", "kept"),
    [("full", 5), ("hard", 1), ("logits", 5), ("ms:2", 2), ("sigmoid", 5), ("sigmoid:2", 2)],
)
def test_as_many_classes_are_compared_as_the_codec_keeps(make_config, tmp_path, codec, kept):
    assert measure(make_config(tmp_path / "store", numerics="fast", codec=codec)).kept == kept


def test_the_sample_is_small_and_from_all_over_the_images(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path / "store", numerics="fast", num_crops=20, batch_size=20)
    monkeypatch.setattr("fkd.labeling.precision_impact._MAX_IMAGES", 3)
    monkeypatch.setattr("fkd.labeling.precision_impact._MAX_CROPS", 24)
    seen = []
    with exact_numerics() as passes:
        setup = build_setup(config, passes)
        prepare = type(setup).prepare
        monkeypatch.setattr(
            type(setup), "prepare", lambda self, place: seen.append(place) or prepare(self, place)
        )
        assert measure_precision_impact(setup, "bf16").labels.num == 24
    assert seen == [(0, 0), (0, 7), (0, 14)]


def test_one_batch_is_measured_even_where_the_teacher_is_slow(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr("fkd.labeling.precision_impact._MAX_SECONDS", 0.0)
    assert measure(make_config(tmp_path / "store", numerics="fast", batch_size=4)).labels.num == 4


def test_images_that_cannot_be_read_are_left_out(make_config, make_images, tmp_path):
    root = make_images(tmp_path / "images", classes=("ant",), per_class=2)
    for name in ("0", "1"):
        (root / "ant" / f"{name}.png").write_bytes(b"no image")
    images = ImagesConfig(root=str(root))
    config = make_config(tmp_path / "store", numerics="fast", images=images)
    report = measure(config)
    assert report.labels.num == 0
    assert "not measured, no sampled image can be read" in str(report)
    assert report.advice == ""


def test_fast_labeling_tells_its_impact_at_the_start_and_in_the_result(make_config, tmp_path):
    listener = Listener()
    result = label(make_config(tmp_path / "store", numerics="fast"), listener)
    assert listener.impact is not None
    assert listener.impact == result.precision_impact
    assert LabelStore.open(tmp_path / "store").config["numerics"]["autocast"] == "bf16"


def test_exact_labeling_has_none(make_config, tmp_path):
    listener = Listener()
    result = label(make_config(tmp_path / "store"), listener)
    assert listener.impact is result.precision_impact is None


def test_a_store_says_how_its_labels_were_computed(make_config, tmp_path):
    label(make_config(tmp_path / "store", numerics="fast", autocast="fp16"))
    assert LabelStore.open(tmp_path / "store").config["numerics"] == {
        "dtype": "float32",
        "autocast": "fp16",
        "batch_size": 8,
        "folded_batch_norms": [13],
    }


def test_fast_labels_are_the_same_bytes_in_every_run(make_config, tmp_path):
    first = label(make_config(tmp_path / "one", numerics="fast"))
    second = label(make_config(tmp_path / "two", numerics="fast", num_workers=1))
    assert first.store.root_hash == second.store.root_hash


def test_fast_that_is_slow_says_so_with_the_way_out():
    labels = LabelComparison(8, 1.0, 0.0, 0.0, 0.0)
    report = PrecisionImpact("bf16", labels, speed=0.814)
    assert report.advice == (
        "fast runs at 0.81 times the speed of exact on this machine; leave out --numerics fast"
    )
    assert PrecisionImpact("bf16", labels, speed=1.6).advice == (
        "fast runs at 1.60 times the speed of exact on this machine"
    )
