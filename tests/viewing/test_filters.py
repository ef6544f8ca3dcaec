"""Which images a page shows: against the labels themselves, decoded one by one."""

from itertools import pairwise

import numpy as np
import pytest

from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError
from fkd.labels.arrays import decode_array, entropies
from fkd.labels.sigmoid_codecs import is_multi_label
from fkd.store import LabelStore
from fkd.viewing import statistics as statistics_module
from fkd.viewing.browser import Browser
from fkd.viewing.filters import FilterConfig, reads_labels
from fkd.viewing.statistics import read_statistics

CODECS = [
    "full",
    "hard",
    "smoothing",
    "ms:2",
    "mr:2",
    "logits",
    "logits:3",
    "ms:4",
    "sigmoid",
    "sigmoid:2",
]


def naive(store, key):
    """Mean entropy, mean top probability, and class of the mean label, of all crops of an image."""
    image = store[key]
    p = decode_array(image.codec, image.label, image.num_classes)
    entropy = entropies(p)
    if is_multi_label(image.codec):
        entropy = entropy + entropies(1.0 - p)
    return entropy.mean(), p.max(1).mean(), p.mean(0).argmax()


def require_naive(store):
    rows = np.flatnonzero(store.labeled(np.arange(len(store))))
    found = read_statistics(store, rows)
    expected = [naive(store, key) for key in store.keys(rows)]
    np.testing.assert_allclose(found.entropy, [e[0] for e in expected], atol=1e-4)
    np.testing.assert_allclose(found.top_probability, [e[1] for e in expected], atol=1e-4)
    assert found.top_class.tolist() == [e[2] for e in expected]


@pytest.mark.parametrize("codec", CODECS)
def test_statistics_are_those_of_decoded_labels(codec, image_source, make_store, tmp_path):
    require_naive(make_store(tmp_path / "s", image_source, codec=codec, value_dtype="f32"))


def test_statistics_of_label_maps(map_store):
    require_naive(map_store)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_chunks_do_not_matter_and_progress_counts_all(size, label_store, monkeypatch):
    whole = read_statistics(label_store, np.arange(15))
    monkeypatch.setattr(statistics_module, "_MOST_IMAGES", size)
    counts = []
    parts = read_statistics(label_store, np.arange(15), counts.append)
    assert sum(counts) == 15
    assert max(counts) == size
    np.testing.assert_array_equal(whole.entropy, parts.entropy)
    np.testing.assert_array_equal(whole.top_class, parts.top_class)


def test_of_many_crops_some_are_looked_at(image_source, make_store, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics_module, "MOST_CROPS", 2)
    store = make_store(tmp_path / "s", image_source)
    p = store[b"ant/0.png"].decode().double().numpy()[[0, -1]]
    assert read_statistics(store, np.array([0])).entropy[0] == pytest.approx(entropies(p).mean())


@pytest.fixture(scope="module")
def browser(label_store, image_source):
    return Browser(label_store, image_source)


def keys_of(browser, sort="name", size=100, number=1, seed=0, **conditions):
    chosen = browser.select(FilterConfig(**conditions), sort, size=size, number=number, seed=seed)
    return [key.decode() for key in browser.store.keys(chosen.rows)]


def test_classes(browser):
    assert keys_of(browser, class_name=["bee"]) == [f"bee/{i}.png" for i in range(5)]
    assert len(keys_of(browser, class_name=["ant", "CAT"])) == 10
    for wrong, hint in (("bea", "did you mean bee?"), ("zebra", "it knows ant, bee, cat")):
        with pytest.raises(ConfigError, match=f"no class '{wrong}'; {hint}".replace("?", r"\?")):
            keys_of(browser, class_name=[wrong])


def test_conditions_on_labels(browser, label_store):
    all_keys = [key.decode() for key in label_store]
    facts = {key: naive(label_store, key) for key in all_keys}
    names = label_store.class_names
    entropy = sorted(fact[0] for fact in facts.values())
    low, high = entropy[3] - 1e-5, entropy[9] + 1e-5
    expected = [key for key in all_keys if low <= facts[key][0] <= high]
    assert keys_of(browser, min_entropy=low, max_entropy=high) == expected
    assert len(expected) == 7
    top = sorted(fact[1] for fact in facts.values())[7] + 1e-5
    assert keys_of(browser, max_top_probability=top) == [k for k in all_keys if facts[k][1] <= top]
    assert keys_of(browser, min_top_probability=top) == [k for k in all_keys if facts[k][1] > top]
    differing = [key for key in all_keys if names[facts[key][2]] != key.partition("/")[0]]
    assert keys_of(browser, disagrees=True) == differing
    said = [key for key in all_keys if names[facts[key][2]] == "ant"]
    assert keys_of(browser, teacher_class=["ant"]) == said
    both = keys_of(browser, class_name=["ant"], max_entropy=entropy[7] + 1e-5)
    assert both == [k for k in all_keys if k.startswith("ant") and facts[k][0] <= entropy[7] + 1e-5]


def test_orders(browser, label_store):
    facts = {key.decode(): naive(label_store, key) for key in label_store}
    for sort, at, sign in (
        ("low_entropy", 0, 1),
        ("high_entropy", 0, -1),
        ("low_probability", 1, 1),
        ("high_probability", 1, -1),
    ):
        values = [sign * facts[key][at] for key in keys_of(browser, sort)]
        assert all(b - a >= -1e-4 for a, b in pairwise(values))
    assert keys_of(browser, "name") == sorted(facts)
    first, second = (keys_of(browser, "random", seed=seed) for seed in (0, 1))
    assert sorted(first) == sorted(second) == sorted(facts)
    assert first != second
    assert first == keys_of(browser, "random", seed=0)
    with pytest.raises(ConfigError, match="sort: 'best' is none of random, name"):
        keys_of(browser, "best")


def test_pages_are_parts_of_one_order(browser):
    pages = [keys_of(browser, "random", size=4, number=number) for number in (1, 2, 3, 4)]
    assert [key for page in pages for key in page] == keys_of(browser, "random")
    assert [len(page) for page in pages] == [4, 4, 4, 3]
    with pytest.raises(ConfigError, match="there are 4 pages of 4 images, no page 5"):
        keys_of(browser, size=4, number=5)


def test_labels_are_read_once_and_only_where_needed(label_store, image_source, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("an image was decoded, or labels were read")

    monkeypatch.setattr("fkd.data.sources.decode_image", refuse)
    browser = Browser(label_store, image_source)
    reads = []
    read = LabelStore.read
    monkeypatch.setattr(LabelStore, "read", lambda *a, **k: reads.append(1) or read(*a, **k))
    keys_of(browser, "random", class_name=["ant"])
    assert reads == []
    keys_of(browser, "high_entropy")
    once = len(reads)
    keys_of(browser, "name", disagrees=True)
    assert len(reads) == once > 0
    assert not reads_labels(FilterConfig(class_name=["a"]), "random")
    assert reads_labels(FilterConfig(disagrees=True), "name")


def test_unreadable_images_are_on_no_page(image_source, make_store, tmp_path):
    store = make_store(tmp_path / "s", image_source, unreadable=(1, 14))
    browser = Browser(store, image_source)
    for sort in ("random", "low_entropy"):
        keys = keys_of(browser, sort)
        assert len(keys) == 13
        assert not {"ant/1.png", "cat/4.png"} & set(keys)


def test_without_class_folders_the_keys_name_the_classes(image_folder, label_store):
    flat = open_source(ImagesConfig(root=str(image_folder), format="flat"))
    assert flat.class_names is None
    browser = Browser(label_store, flat)
    assert keys_of(browser, class_name=["bee"]) == [f"bee/{i}.png" for i in range(5)]
    assert keys_of(browser, disagrees=True) == keys_of(
        Browser(label_store, open_source(ImagesConfig(root=str(image_folder)))), disagrees=True
    )


def test_without_classes_there_is_nothing_to_compare(image_folder, make_store, tmp_path):
    flat = open_source(ImagesConfig(root=str(image_folder), format="flat"))
    others = make_store(tmp_path / "s", flat, class_names=("x", "y", "z"))
    for conditions, said in (
        ({"class_name": ["x"]}, "the images have no classes"),
        ({"disagrees": True}, "no image has a true class that is a class of the store"),
    ):
        with pytest.raises(ConfigError, match=said):
            keys_of(Browser(others, flat), **conditions)
    classes = open_source(ImagesConfig(root=str(image_folder)))
    with pytest.raises(ConfigError, match="no image has a true class"):
        keys_of(Browser(others, classes), disagrees=True)


@pytest.mark.parametrize(
    "impossible",
    [
        {"min_entropy": -1.0},
        {"min_top_probability": 1.5},
        {"min_entropy": 2.0, "max_entropy": 1.0},
        {"min_top_probability": 0.9, "max_top_probability": 0.1},
        {"max_entropy": float("nan")},
    ],
)
def test_impossible_conditions_are_refused(impossible):
    with pytest.raises(ConfigError, match=r"filter\."):
        FilterConfig(**impossible)
