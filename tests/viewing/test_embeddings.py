"""Embeddings in numbers and on the page: against oracles, and read as a browser reads it."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from fkd.cli import main
from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, load, open_source
from fkd.errors import ConfigError
from fkd.labels.codecs import Logits
from fkd.store import ImageFacts, LabeledCrops, LabelStore, StoreWriter, form_members, keys_digest
from fkd.viewing.browser import Browser
from fkd.viewing.embeddings import nearest_crops, sample_embeddings, statistics_of
from fkd.viewing.filters import FilterConfig
from fkd.viewing.page import PageConfig, render_page
from fkd.viewing.server import PageServer, View
from fkd.viewing.summary import summarize

D, M = 40, 6
PROJECTION = {
    "entries": "signs",
    "generator": "philox4x32-10",
    "num_features": 512,
    "seed": 0,
}


def write_features(path, source, value_dtype="f32", num_crops=M, zero=(), **members) -> LabelStore:
    """Embeddings of these images: those of a class point into one direction, roughly."""
    keys = [source.key(i) for i in range(len(source))]
    config = {
        **form_members("plain", Logits(), D, value_dtype),
        "num_images": len(keys),
        "num_crops": num_crops,
        "num_classes": D,
        "outputs": "features",
        "codec": "logits",
        "extras": {},
        "images_per_shard": 4,
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "color"}],
        **members,
    }
    with StoreWriter.open(path, config) as writer:
        for number in writer.pending():
            rows = range(*writer.shard_range(number))
            writer.commit(number, [keys[i] for i in rows], _content(source, rows, num_crops, zero))
        writer.finish({}, [])
    return LabelStore.open(path)


def _content(source, rows, num_crops, zero) -> LabeledCrops:
    loaded = [load(source, i) for i in rows]
    facts = ImageFacts(
        crc32=np.array([image.crc32 for image in loaded], np.uint32),
        num_bytes=np.array([image.num_bytes for image in loaded], np.uint64),
        size=np.array([image.image.shape[1:] for image in loaded], np.uint32),
        status=np.zeros(len(rows), np.uint8),
    )
    numbers = np.arange(num_crops)
    records = [
        sample_crops(CropConfig(), image.content_key, image.size, numbers) for image in loaded
    ]
    values = np.stack([_embedding(source, i, num_crops) for i in rows])
    for row in zero:
        if row in rows:
            values[row - rows.start] = 0
    codec = Logits().encode(torch.from_numpy(values.reshape(-1, D)))
    label = codec.map(lambda array: array.reshape(len(rows), num_crops, D))
    return LabeledCrops(facts, CropRecords.stack(records), label)


def _embedding(source, i, num_crops) -> np.ndarray:
    of_class = np.random.default_rng(max(source.label(i), 0)).normal(size=D)
    noise = np.random.default_rng(100 + i).normal(size=(num_crops, D))
    return (3 * (of_class + 0.5 * noise)).astype(np.float32)


@pytest.fixture(scope="module")
def store(image_source, tmp_path_factory) -> LabelStore:
    return write_features(tmp_path_factory.mktemp("features") / "store", image_source)


def cosine(a, b) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_the_statistics_are_those_of_all_pairs(store):
    values = store.read(np.arange(15)).label.values.astype(np.float64)
    found = statistics_of(sample_embeddings(store, 64, M, 0))
    norms = np.linalg.norm(values, axis=-1)
    assert found.mean_norm == pytest.approx(norms.mean())
    assert found.std_norm == pytest.approx(norms.std())
    within = [
        cosine(image[a], image[b]) for image in values for a in range(M) for b in range(M) if a != b
    ]
    across = [
        cosine(values[i, a], values[j, b])
        for i in range(15)
        for j in range(15)
        for a in range(M)
        for b in range(M)
        if i != j
    ]
    assert found.cosine_within == pytest.approx(np.mean(within), abs=1e-6)
    assert found.cosine_across == pytest.approx(np.mean(across), abs=1e-6)
    assert found.cosine_within > found.cosine_across + 0.1


def test_the_sample_is_bounded(store, monkeypatch):
    sample = sample_embeddings(store, 5, 2, 0)
    assert sample.directions.shape == (5, 2, D)
    assert sample.crops.tolist() == [0, M - 1]
    monkeypatch.setattr("fkd.viewing.embeddings._MAX_NUMBERS", 7 * 2 * D)
    assert len(sample_embeddings(store, 64, 2, 0).rows) == 7


def test_the_nearest_crops_are_those_of_a_search_through_all(store):
    sample = sample_embeddings(store, 64, M, 0)
    values = store.read(np.arange(15)).label.values.astype(np.float64)
    for row in (0, 7):
        found = nearest_crops(sample, values[row].astype(np.float32), row, 5)
        for query, neighbors in zip(values[row], found, strict=True):
            expected = sorted(
                (
                    (cosine(query, values[i, c]), i, c)
                    for i in range(15)
                    for c in range(M)
                    if i != row
                ),
                reverse=True,
            )[:5]
            assert [(n.row, n.crop) for n in neighbors.nearest] == [e[1:] for e in expected]
            for neighbor, (value, _, _) in zip(neighbors.nearest, expected, strict=True):
                assert neighbor.cosine == pytest.approx(value, abs=1e-5)
                assert neighbor.image == store.keys([neighbor.row])[0].decode()


def test_rows_of_zeros_and_single_crops_are_no_error(image_source, tmp_path):
    one = write_features(tmp_path / "one", image_source, num_crops=1, zero=(0, 1))
    found = statistics_of(sample_embeddings(one, 64, 8, 0))
    assert found.cosine_within is None
    assert np.isfinite(found.cosine_across)
    alone = statistics_of(sample_embeddings(one, 1, 8, 0))
    assert alone.cosine_across is None
    summary = summarize(one)
    assert summary.statistics["mean cosine, crops of one image"] == "too few to tell"
    json.dumps(summary.statistics, allow_nan=False)


@pytest.mark.parametrize("value_dtype", ["f16", "i8"])
def test_inspect_speaks_of_dimensions(image_source, tmp_path, capsys, monkeypatch, value_dtype):
    monkeypatch.setenv("COLUMNS", "300")
    store = write_features(tmp_path / "s", image_source, value_dtype, projection=PROJECTION)
    main(["inspect", str(store.path)])
    printed = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "40 of an embedding, projected from 512, no classes" in printed
    assert f"values as {value_dtype}" in printed
    for said in ("norm of an embedding", "crops of one image", "nearest crops of other images"):
        assert said in printed
    assert "entropy" not in printed
    assert "probability" not in printed
    main(["inspect", str(store.path), "--json_output"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["embeddings"]["num_images"] == 15
    assert summary["mean_confidence"] is None
    assert "classes" not in summary["facts"]
    assert len(summary["samples"][0][2]["nearest"]) == 2


class Page(HTMLParser):
    """What a reader sees: elements by class, text, and what would be loaded."""

    def __init__(self):
        super().__init__()
        self.elements, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_data(self, data):
        self.text.append(data.strip())

    def count(self, tag, of_class=None):
        return sum(
            name == tag and of_class in (None, attributes.get("class"))
            for name, attributes in self.elements
        )


def read_page(store, source, **options) -> Page:
    page = Page()
    page.feed(render_page(store, source, PageConfig(**options), sort="name"))
    return page


def test_the_page_shows_each_crop_with_its_nearest_crops(store, image_source):
    page = read_page(store, image_source, num_images=3, crops_per_image=4, num_neighbors=2)
    assert page.count("article") == 3
    assert page.count("rect") == page.count("div", "crop") == 3 * 4
    assert page.count("ul", "near") == 3 * 4
    assert page.count("ul", "bars") == 0
    assert page.count("li") == 3 * 4 * 2
    assert page.count("img") == 3 * 4 * (1 + 2)
    assert page.count("script") == 1
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "all others" not in page.text
    sample = sample_embeddings(store, 128, 4, 0)
    values = store.read([0], sample.crops[None]).label.values[0]
    for neighbors in nearest_crops(sample, values, 0, 2):
        for neighbor in neighbors.nearest:
            place = page.text.index(f"{neighbor.image} #{neighbor.crop}")
            assert place > 0
            assert f"{neighbor.cosine:.3f}" in page.text


def test_an_image_is_no_neighbor_of_itself(store, image_source):
    page = read_page(store, image_source, num_images=15, num_neighbors=80)
    names = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    current = -1
    for tag, attributes in page.elements:
        current += tag == "article"
        if tag == "li":
            assert attributes["title"] != names[current]


def test_a_store_of_one_image_has_no_neighbors(image_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes((image_folder / "ant/0.png").read_bytes())
    source = open_source(ImagesConfig(root=str(folder)))
    page = read_page(write_features(tmp_path / "s", source), source, crop_side=1)
    assert page.count("li") == 0
    assert page.count("div", "crop") == M


def test_the_page_is_written_by_the_command(store, image_folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    options = ["--page.num_images", "2", "--page.num_neighbors", "3", "--page.sampled_images", "9"]
    main(["view", str(store.path), f"--images={image_folder}", f"--out={out}", *options])
    text = out.read_text(encoding="utf-8")
    assert text.count('<ul class="near">') == 2 * M
    assert "those of 9 sampled images" in text
    with pytest.raises(ConfigError, match="sampled_images must be at least 1"):
        PageConfig(sampled_images=0)


def test_embeddings_are_not_chosen_by_probabilities(store, image_source):
    browser = Browser(store, image_source)
    for conditions, sort in (({"disagrees": True}, "name"), ({}, "low_entropy")):
        with pytest.raises(ConfigError, match="embeddings, which have neither entropies nor"):
            browser.select(FilterConfig(**conditions), sort)
    assert len(browser.select(FilterConfig(class_name=["bee"]), "random").rows) == 5
    with PageServer(browser, View(FilterConfig(), "name", PageConfig(num_images=2))) as server:
        status, text = server.answer("class_name=cat&sort=name&num_images=2")
    page = Page()
    page.feed(text)
    assert status == 200
    fields = {attributes.get("name") for _, attributes in page.elements}
    assert {"class_name", "sort"} <= fields
    assert not {"min_entropy", "teacher_class", "disagrees"} & fields
    assert [a["value"] for tag, a in page.elements if a.get("selected", "") is None] == ["name"]
