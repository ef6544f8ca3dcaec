"""Eq. 2 against a naive loop, for stores, label maps and models of known outputs."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import fkd.analysis.distance_run as distance_run
from fkd.analysis.distance import (
    Distances,
    Source,
    cross_entropies,
    groups_of,
    summarize_distances,
)
from fkd.analysis.distance_figure import draw_distances
from fkd.analysis.distance_run import DistanceConfig, measure_distances, open_distance
from fkd.analysis.label_sources import (
    Distributions,
    columns_of,
    model_config,
    require_same_crops,
)
from fkd.analysis.samples import ALL_IMAGES, SampleConfig, draw_sample
from fkd.crops.replay import replay
from fkd.data.identity import load_labeled
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, CropMismatch, StoreMismatch
from fkd.labels.pooling import pool_maps, roi_align_weights

SAMPLE = SampleConfig(images_per_class=3, crops_per_image=2, seed=1)


@pytest.fixture
def make_config(image_folder, label_store, map_store):
    def make(**options) -> DistanceConfig:
        settings = {
            "images": ImagesConfig(root=str(image_folder)),
            "store": str(label_store.path),
            "maps": str(map_store.path),
            "sample": SAMPLE,
            "batch_size": 4,
        }
        return DistanceConfig(**(settings | options))

    return make


@pytest.fixture
def models(monkeypatch, brightness, label_store):
    """Two networks, one with its outputs in another order and one class more."""
    orders = {"sorted": (0, 1, 2, 3), "shuffled": (4, 2, 0, 3, 1)}

    def load(wanted, class_names, device):
        assert tuple(class_names) == label_store.class_names
        return {name: brightness(orders[name]).with_classes(class_names) for name in wanted}

    monkeypatch.setattr(distance_run, "load_classifiers", load)
    return dict.fromkeys(orders, "a model")


def naive(a, b) -> float:
    """Eq. 2 for one crop."""
    return -sum(pb * math.log(pa) for pa, pb in zip(a, b, strict=True) if pb > 0)


def labels_by_hand(setup) -> dict[str, np.ndarray]:
    """Probabilities (n * m, 4) of each source, crop by crop."""
    store, maps, sample = setup.store, setup.maps.store, setup.sample
    found = {name: [] for name in ("truth", "ReLabel", "FKD", "sorted")}
    for row, crops in zip(sample.rows.tolist(), sample.crops.tolist(), strict=True):
        (key,) = store.keys([row])
        records = store[key].records
        image = load_labeled(store, setup.images, row)
        stored = maps.read([row])
        for crop in crops:
            found["truth"].append(np.eye(4)[["ant", "bee", "cat", "dog"].index(key[:3].decode())])
            box = records.box[crop]
            weights = roi_align_weights(box, np.array(store[key].size), maps.grid)
            pooled = pool_maps(stored.label.ids, stored.label.values, weights[None, None], 4)
            found["ReLabel"].append(pooled.dense()[0].numpy())
            found["FKD"].append(store[key].decode()[crop].numpy())
            pixels = replay(image, records[crop : crop + 1], 16, "bilinear")[0].double() / 255
            colors = 4 * pixels.mean((1, 2))
            found["sorted"].append(torch.softmax(torch.cat([colors, torch.zeros(1)]), 0).numpy())
    return {name: np.array(rows, np.float64) for name, rows in found.items()}


def test_cross_entropies_are_eq_2():
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(5), size=(3, 7))  # sources, crops, classes
    found = cross_entropies([Distributions.of_probabilities(each) for each in p])
    for crop, a, b in np.ndindex(7, 3, 3):
        assert found[crop, a, b] == pytest.approx(naive(p[a, crop], p[b, crop]), rel=1e-12)


def test_logits_give_no_zeros():
    """A softmax in float32 is 0 beyond 104, and its logarithm no number."""
    label = Distributions.of_logits(torch.tensor([[0.0, -500.0]]))
    assert label.log_p.tolist() == [[0.0, -500.0]]
    (distance,) = cross_entropies([label, Distributions.of_probabilities(np.array([[0.5, 0.5]]))])
    assert distance[0, 1] == pytest.approx(250.0)


def test_means_are_over_classes_not_over_crops():
    distances = np.array([1.0, 2.0, 3.0, 10.0]).reshape(4, 1, 1)
    source = Source("F", "fkd", "")
    found = summarize_distances([source], ["x", "y"], np.array([0, 0, 0, 1]), distances)
    assert found.per_class[:, 0, 0].tolist() == [2.0, 10.0]
    assert found.num_crops.tolist() == [3, 1]
    assert found.mean[0, 0] == 6.0
    assert found.std[0, 0] == pytest.approx(np.std([2.0, 10.0], ddof=1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_sources_on_the_same_crops(make_config, models, num_workers):
    setup = open_distance(make_config(models=models, num_workers=num_workers))
    seen = []
    found = measure_distances(setup, seen.append)
    assert sum(seen) == len(setup.sample) == 9
    names = [source.name for source in found.sources]
    assert names == ["truth", "ReLabel", "FKD", "sorted", "shuffled"]
    by_hand = labels_by_hand(setup)
    for a in ("ReLabel", "FKD", "sorted"):
        for b in ("truth", "ReLabel", "FKD", "sorted"):
            per_crop = [naive(pa, pb) for pa, pb in zip(by_hand[a], by_hand[b], strict=True)]
            per_class = np.array(per_crop).reshape(3, 6).mean(1)
            measured = found.per_class[:, names.index(a), names.index(b)]
            np.testing.assert_allclose(measured, per_class, rtol=1e-5)
    assert np.isnan(found.mean[0]).all()
    np.testing.assert_allclose(found.mean[3], found.mean[4], rtol=1e-6)  # classes by name


def test_an_image_is_decoded_once_and_only_for_models(make_config, models, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        distance_run,
        "load_labeled",
        lambda store, images, row: decoded.append(row) or load_labeled(store, images, row),
    )
    setup = open_distance(make_config())
    measure_distances(setup)
    assert decoded == []
    setup = open_distance(make_config(models=models))
    measure_distances(setup)
    assert sorted(decoded) == setup.sample.rows.tolist()


@pytest.mark.parametrize(
    ("codec", "clamp", "defined"),
    [("mr:2", None, False), ("mr:2", 1e-12, True), ("hard", 1e-12, False), ("full", None, True)],
)
def test_labels_with_zeros_are_targets_only(
    codec, clamp, defined, make_config, make_store, image_source, tmp_path
):
    store = make_store(tmp_path / "store", image_source, codec=codec)
    other = {"other_stores": {"second": str(store.path)}, "clamp": clamp}
    setup = open_distance(make_config(**other))
    found = measure_distances(setup)
    second = [source.name for source in found.sources].index("second")
    assert np.isnan(found.mean[second]).all() == (not defined)
    assert not np.isnan(found.mean[1:second, second]).any()
    assert any("second is a target only" in note for note in setup.notes) == (not defined)


def test_hard_labels_alone_have_no_distance(make_config, make_store, image_source, tmp_path):
    store = make_store(tmp_path / "store", image_source, codec="hard")
    with pytest.raises(ConfigError, match=r"hard labels, which have no logarithm.*--models\.NAME"):
        open_distance(make_config(store=str(store.path), maps=None))


def test_zeros_of_mr_count_as_the_clamp(make_config, make_store, image_source, tmp_path):
    store = make_store(tmp_path / "store", image_source, codec="mr:2")
    setup = open_distance(make_config(other_stores={"mr": str(store.path)}, clamp=1e-6))
    found = measure_distances(setup)
    names = [source.name for source in found.sources]
    for group in range(3):
        per_crop = []
        for position in np.flatnonzero(setup.sample.groups == group):
            (key,) = store.keys(setup.sample.rows[[position]])
            for crop in setup.sample.crops[position]:
                p = store[key].decode()[crop].double().clamp(min=1e-6)
                per_crop.append(naive(p.tolist(), setup.store[key].decode()[crop].tolist()))
        measured = found.per_class[group, names.index("mr"), names.index("FKD")]
        assert measured == pytest.approx(np.mean(per_crop), rel=1e-5)


def test_stores_of_other_crops_or_classes(make_config, make_store, image_source, tmp_path):
    other = make_store(tmp_path / "names", image_source, class_names=("ant", "bee", "cat", "eel"))
    with pytest.raises(StoreMismatch, match=r"lacks 1 of the 4 classes .* 'dog'"):
        open_distance(make_config(other_stores={"x": str(other.path)}))
    ours = make_store(tmp_path / "ours", image_source).read([0, 1], [[0, 1], [0, 1]])
    require_same_crops("x", other, ours, ours)
    moved = ours.records.box + np.array([0, 1, 0, 0])
    for change in ({"box": moved}, {"flip": ~ours.records.flip}, {"extra": {"jitter": moved}}):
        theirs = replace(ours, records=replace(ours.records, **change))
        with pytest.raises(StoreMismatch, match=r"other_stores\.x: .* other crops"):
            require_same_crops("x", other, theirs, ours)


def test_a_store_of_fewer_of_the_same_crops(make_config, make_store, image_source, tmp_path):
    fewer = make_store(tmp_path / "few", image_source, num_crops=3)
    setup = open_distance(make_config(other_stores={"x": str(fewer.path)}))
    assert set(setup.sample.crops.flat) == {0, 1, 2}
    measure_distances(setup)


def test_classes_of_another_store_are_matched_by_name(make_store, image_source, tmp_path):
    names = ("dog", "cat", "wolf", "bee", "ant")
    other = make_store(tmp_path / "other", image_source, class_names=names)
    reference = make_store(tmp_path / "store", image_source)
    columns = columns_of(other, reference)
    assert [names[c] for c in columns] == list(reference.class_names)


def test_kinds_of_stores_are_told_apart(make_config, label_store, map_store):
    with pytest.raises(ConfigError, match=r"store: .* holds label maps .* give it as --maps"):
        open_distance(make_config(store=str(map_store.path)))
    with pytest.raises(ConfigError, match=re.escape("other_stores.x: ")):
        open_distance(make_config(other_stores={"x": str(map_store.path)}))
    with pytest.raises(ConfigError, match=r"maps: .* no label maps"):
        open_distance(make_config(maps=str(label_store.path)))


def test_a_changed_image_is_refused(make_images, make_store, models, tmp_path):
    folder = make_images(tmp_path / "images", per_class=1)
    store = make_store(tmp_path / "store", open_source(ImagesConfig(root=str(folder))))
    (folder / "bee" / "0.png").write_bytes((folder / "ant" / "0.png").read_bytes())
    config = DistanceConfig(
        images=ImagesConfig(root=str(folder)), store=str(store.path), models=models
    )
    with pytest.raises(CropMismatch, match=r"bee.*0\.png"):
        measure_distances(open_distance(config))


@pytest.mark.parametrize("names", [["truth"], ["FKD"], ["ReLabel"], [""]])
def test_names_that_mean_two_things(names, make_config):
    with pytest.raises(ConfigError, match="a name of its own"):
        make_config(models=dict.fromkeys(names, "resnet18"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "3 is no model"),
        ("", "'' is no model"),
        (["a"], "is no model"),
        ({"nam": "resnet18"}, "no setting 'nam'"),
        ({"name": 3}, "is text, got 3"),
        ({"name": "resnet18", "temperature": -1.0}, "temperature must be above 0"),
        ({}, "give a model name"),
    ],
)
def test_what_is_no_model(model, message):
    with pytest.raises(ConfigError, match=message) as caught:
        model_config("models.x", model)
    assert "models.x" in str(caught.value)


def test_a_model_that_does_not_know_a_class_is_named(make_config):
    with pytest.raises(ConfigError, match=r"models\.net: .*unknown model 'no_such_net'"):
        open_distance(make_config(models={"net": "no_such_net"}))


def test_a_sample_is_a_function_of_its_seed(image_source, label_store):
    usable = np.arange(15)
    first = draw_sample(image_source, label_store, SAMPLE, usable)
    again = draw_sample(image_source, label_store, SAMPLE, usable)
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.crops, again.crops)
    assert first.class_names == ("ant", "bee", "cat")
    assert first.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(len(set(crops)) == 2 for crops in first.crops.tolist())
    draws = {
        tuple(
            draw_sample(
                image_source, label_store, SampleConfig(images_per_class=1, seed=s), usable
            ).rows
        )
        for s in range(20)
    }
    assert len(draws) > 10
    larger = SampleConfig(images_per_class=4, crops_per_image=2, seed=1)
    assert set(first.rows) < set(draw_sample(image_source, label_store, larger, usable).rows)


def test_samples_of_some_classes(image_source, label_store):
    def names(**options):
        sample = draw_sample(
            image_source, label_store, SampleConfig(**options), np.array([0, 1, 10])
        )
        return sample.class_names, sample.rows.tolist()

    assert names(num_classes=1) == (("ant",), [0, 1])
    assert names() == (("ant", "cat"), [0, 1, 10])  # bee has no usable image
    assert names(classes=("cat",)) == (("cat",), [10])
    with pytest.raises(ConfigError, match=r"sample\.classes: .*'elk'"):
        names(classes=("cat", "elk"))


def test_images_without_known_classes(image_folder, make_store, image_source, tmp_path):
    flat = open_source(ImagesConfig(root=str(image_folder), format="flat"))
    store = make_store(tmp_path / "store", image_source, class_names=("x", "y", "z"))
    sample = draw_sample(
        flat, store, SampleConfig(num_classes=2, images_per_class=3), np.arange(15)
    )
    assert (sample.class_names, len(sample), sample.truth) == ((ALL_IMAGES,), 6, None)
    config = DistanceConfig(images=ImagesConfig(root=str(image_folder)), store=str(store.path))
    setup = open_distance(config)
    assert setup.sample.class_names == ("ant", "bee", "cat")
    assert [source.name for source in setup.sources] == ["FKD"]
    assert any("true class" in note for note in setup.notes)


def test_groups_of_the_figure():
    kinds = {"O": "truth", "R": "relabel", "F": "fkd", "a": "model", "b": "model"}
    sources = [Source(name, kind, "") for name, kind in kinds.items()]
    named = {
        group: ["".join(sources[i].name for i in pair) for pair in pairs]
        for group, pairs in groups_of(sources).items()
    }
    assert named == {
        "labels": ["RF", "RO", "FO"],
        "truth": ["aO", "bO"],
        "models": ["aF", "bF", "aR", "bR"],
    }
    sources[2] = Source("F", "fkd", "", undefined="zeros")
    assert groups_of(sources)["labels"] == [(1, 2), (1, 0)]


def texts_of(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_figure_shows_names_numbers_and_what_is_undefined():
    sources = (
        Source("truth", "truth", "", "zeros"),
        Source("FKD", "fkd", ""),
        Source("pay $5 $6", "model", ""),
    )
    random = np.random.default_rng(0)
    per_class = random.uniform(1, 5, (4, 3, 3))
    per_class[:, 0] = np.nan
    distances = Distances(sources, ("a", "b", "n02123045", "d"), np.full(4, 2), per_class)
    figure = draw_distances(distances)
    texts = texts_of(figure)
    for a in (1, 2):
        for b in range(3):
            assert f"{per_class[:, a, b].mean():.2f}" in texts
    assert texts.count("not defined") == 3
    assert "tabby" in texts
    assert r"pay \$5 \$6" in texts
    assert any(text.startswith("FKD \u2192 truth") for text in texts)
    panels = [axes for axes in figure.axes if axes.lines]
    drawn = [line.get_ydata().tolist() for axes in panels for line in axes.lines]
    assert per_class[:, 1, 0].tolist() in drawn
    assert len(drawn) == 3  # F -> O, model -> O, model -> F


def test_one_class_has_a_matrix_only():
    distances = Distances((Source("F", "fkd", ""),), (ALL_IMAGES,), np.ones(1), np.ones((1, 1, 1)))
    figure = draw_distances(distances)
    assert len(figure.axes) == 1
    assert "without classes" in figure.axes[0].get_title("left")
    assert "deviation" not in figure.axes[0].get_title("left")
    numbers = distances.to_json()["distances"]
    assert numbers == [{"a": "F", "b": "F", "mean": 1.0, "std": None, "per_class": [1.0]}]


def test_a_sample_of_named_images_has_their_rows(image_folder, label_store, tmp_path):
    """Their positions among the named ones are other than their rows in the store."""
    names = [b"bee/1.png", b"bee/3.png", b"cat/0.png", b"cat/4.png"]
    (tmp_path / "subset.txt").write_bytes(b"\n".join(names))
    images = ImagesConfig(root=str(image_folder), subset=str(tmp_path / "subset.txt"))
    setup = open_distance(DistanceConfig(images=images, store=str(label_store.path)))
    assert label_store.keys(setup.sample.rows) == names
    assert setup.sample.class_names == ("bee", "cat")
    assert setup.sample.truth.tolist() == [1, 1, 2, 2]
