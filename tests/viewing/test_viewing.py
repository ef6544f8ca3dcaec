"""The summary and the page, on a small store of random images."""

import re
import shutil
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from fkd.cli import main
from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, StoreMismatch
from fkd.labels.codec_names import parse_codec
from fkd.store import ImageFacts, LabeledCrops, LabelStore, StoreWriter, keys_digest
from fkd.viewing.page import PageConfig, render_page
from fkd.viewing.summary import summarize

M, C = 6, 4
CLASSES = ["n02123045", "n02099601", "a <b>bold</b> class", "plain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images; one has a name that wants to break out of the page."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b <script>.png", "c.png"):
        pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    return write_store(folder, tmp_path_factory.mktemp("stores") / "small")


def write_store(folder, path, unreadable=()):
    keys = sorted(path.name.encode() for path in folder.iterdir())
    codec = parse_codec("ms:2")
    config = {
        "format_version": 1,
        "form": "plain",
        "num_images": len(keys),
        "num_crops": M,
        "num_classes": C,
        "class_names": CLASSES,
        "codec": codec.name,
        "value_dtype": "u16",
        "extras": {},
        "images_per_shard": 2,
        "keys_sha256": keys_digest(keys),
        "teachers": [{"name": "a teacher"}],
    }
    with StoreWriter.open(path, config) as writer:
        for shard in writer.pending():
            first, stop = writer.shard_range(shard)
            writer.commit(
                shard, keys[first:stop], content(folder, keys[first:stop], codec, unreadable)
            )
        writer.finish(environment={}, canaries=[])
    return LabelStore.open(path)


def content(folder, keys, codec, unreadable):
    number_of = {path.name.encode(): i for i, path in enumerate(sorted(folder.iterdir()))}
    data = [(folder / key.decode()).read_bytes() for key in keys]
    records = [sample_crops(CropConfig(), key, (60, 90), np.arange(M)) for key in keys]
    probabilities = torch.tensor([0.6, 0.3, 0.08, 0.02]).repeat(len(keys) * M, 1)
    encoded = codec.encode(probabilities)
    images = ImageFacts(
        crc32=np.array([zlib.crc32(d) for d in data], dtype=np.uint32),
        num_bytes=np.array([len(d) for d in data], dtype=np.uint64),
        size=np.array([[60, 90]] * len(keys), dtype=np.uint32),
        status=np.array([number_of[key] in unreadable for key in keys], dtype=np.uint8),
    )
    label = encoded.map(lambda array: array.reshape(len(keys), M, 2))
    return LabeledCrops(images, CropRecords.stack(records), label)


class Tags(HTMLParser):
    """Counts elements; a page that an image name broke would have too many."""

    def __init__(self):
        super().__init__()
        self.counts = {}
        self.links = []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_summary_counts_and_decodes(store):
    summary = summarize(store, num_samples=2)
    assert summary.facts["images"] == "3"
    assert summary.facts["crops per image"] == "6"
    assert summary.num_bytes == sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    assert summary.bytes_per_crop == summary.num_bytes / 18
    assert summary.mean_confidence == pytest.approx(0.6, abs=1e-4)
    q = np.array([0.6, 0.3, 0.05, 0.05])
    assert summary.mean_entropy == pytest.approx(-(q * np.log(q)).sum(), abs=1e-3)
    assert summary.settings["teachers.0.name"] == "a teacher"
    assert len(summary.samples) == 2
    assert "tabby" in str(summary.samples[0][2])  # n02123045 by its readable name


def test_the_page_shows_every_box_crop_and_bar(store, folder):
    page = render_page(store, open_source(ImagesConfig(root=str(folder))))
    tags = Tags()
    tags.feed(page)
    assert tags.counts["article"] == 3
    assert tags.counts["rect"] == 3 * M
    assert tags.counts["img"] == 3 * M
    assert tags.counts["li"] == 3 * M * (C + 1)
    assert tags.counts["script"] == 1
    assert "60.0 %" in page
    assert f"{M} crops of each" in page  # the page would show 8, the store has fewer
    boxes = store[b"a.png"].records.box
    for top, left, height, width in boxes.tolist():
        box = rf'x="{left}" y="{top}"\s+width="{width}" height="{height}"'
        assert re.search(box, page)


def test_the_page_loads_nothing(store, folder):
    page = render_page(store, open_source(ImagesConfig(root=str(folder))))
    tags = Tags()
    tags.feed(page)
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert "b &lt;script&gt;.png" in page
    assert "<b>bold" not in page


def test_a_page_of_other_images_is_refused(store, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    with pytest.raises(StoreMismatch, match="3 labeled but not there"):
        render_page(store, open_source(ImagesConfig(root=str(tmp_path))))


def test_a_replaced_image_is_refused_as_training_refuses_it(store, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "images")
    images = ["--images.root", str(tmp_path / "images")]
    (tmp_path / "images/c.png").write_bytes((folder / "a.png").read_bytes())
    train = ["--method", "fkd", "--store", str(store.path), "--student.name", "test_resnet"]
    messages = []
    for command in (["view", str(store.path)], ["train", *train, "--out", str(tmp_path / "run")]):
        with pytest.raises(SystemExit) as stop:
            main([*command, *images])
        assert stop.value.code == 2
        messages.append(capsys.readouterr().err.strip().splitlines()[-1])
    assert "c.png is not the file that was labeled" in messages[0]
    assert messages[0] == messages[1]


def test_unreadable_images_are_counted_without_reading_the_store(folder, tmp_path, monkeypatch):
    """The checksums of all records of ImageNet's labels cover 7 GB."""
    store = write_store(folder, tmp_path / "store", unreadable=(1,))
    checked = []
    images = LabelStore.images
    monkeypatch.setattr(
        LabelStore, "images", lambda self, rows: checked.extend(rows) or images(self, rows)
    )
    assert summarize(store).facts["unreadable images"] == "1"
    assert set(checked) == {1}  # only rows without labels are compared with their checksums


def test_an_impossible_page_is_refused():
    with pytest.raises(ConfigError, match="num_images"):
        PageConfig(num_images=0)


def test_inspect_prints_the_settings(store, capsys):
    main(["inspect", str(store.path)])
    printed = capsys.readouterr().out
    assert "ms:2" in printed
    assert store.root_hash[:20] in printed.replace("\n", "")


def test_view_writes_the_page_beside_the_store(store, folder, capsys):
    main(["view", str(store.path), "--images.root", str(folder), "--page.num_images", "1"])
    page = store.path.with_name("small.html")
    assert page.read_text(encoding="utf-8").count("<article>") == 1
    assert str(page) in capsys.readouterr().out
