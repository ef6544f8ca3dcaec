"""Images that occur twice: known copies of real photographs; and different ones, which do not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fkd.analysis.duplicates import (
    DuplicateConfig,
    StoreImages,
    duplicate_numbers,
    find_duplicates,
)
from fkd.analysis.duplicates_figure import draw_duplicates
from fkd.analysis.figures import save_analysis
from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError

CHANGES = {
    "smaller": lambda image: image.resize((image.width // 2, image.height // 2)),
    "larger": lambda image: image.resize((image.width * 2, image.height * 2)),
    "square": lambda image: image.resize((64, 64)),
    "compressed": lambda image: jpeg(image, 30),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
}


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def photographs() -> dict[str, Image.Image]:
    """Different ones, small."""
    data = pytest.importorskip("skimage.data")
    names = (
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "camera",
        "coins",
        "moon",
        "brick",
        "grass",
    )
    images = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in names}
    return {name: image.resize((160, 120)) for name, image in images.items()}


def write(root: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / f"{name}.png")
    return root


def source_of(root: Path):
    return open_source(ImagesConfig(root=str(root)))


def pairs(report) -> set[tuple[str, ...]]:
    return {tuple(image.name for image in duplicate.images) for duplicate in report.duplicates}


def test_changed_copies_are_found_and_different_photographs_are_not(tmp_path):
    images = {f"one/{name}": image for name, image in photographs().items()}
    images |= {f"two/{name}": change(images["one/coffee"]) for name, change in CHANGES.items()}
    report = find_duplicates({"images": source_of(write(tmp_path, images))}, DuplicateConfig())
    found = pairs(report)
    assert found >= {("one/coffee.png", f"two/{name}.png") for name in CHANGES}
    others = {"one/coffee.png", *(f"two/{name}.png" for name in CHANGES)}
    assert not [pair for pair in found if not set(pair) <= others]
    assert report.duplicates[0].classes_differ
    assert not report.duplicates[-1].classes_differ  # two copies of one class


def test_the_same_content_within_and_across(make_images, tmp_path):
    train = make_images(tmp_path / "train", per_class=3)
    val = make_images(tmp_path / "val", per_class=2, seed=1)
    (train / "bee" / "9.png").write_bytes((train / "ant" / "0.png").read_bytes())
    (val / "cat" / "9.png").write_bytes((train / "cat" / "2.png").read_bytes())
    for name in ("7.png", "8.png"):
        (val / "ant" / name).write_bytes((train / "ant" / "1.png").read_bytes())
    parts = {"images": source_of(train), "val": source_of(val)}
    for near in (True, False):
        report = find_duplicates(parts, DuplicateConfig(near=near))
        identical = [d for d in report.duplicates if d.identical]
        assert [[image.name for image in d.images] for d in identical] == [
            ["ant/0.png", "bee/9.png"],
            ["ant/1.png", "ant/7.png", "ant/8.png"],
            ["cat/2.png", "cat/9.png"],
        ]
        assert [(d.classes_differ, d.across) for d in identical] == [
            (True, False),
            (False, True),
            (False, True),
        ]
        assert report.num_images == {"images": 10, "val": 9}


def test_a_store_has_the_checksums(make_images, make_store, tmp_path, monkeypatch):
    root = make_images(tmp_path / "images", per_class=3)
    (root / "bee" / "9.png").write_bytes((root / "ant" / "0.png").read_bytes())
    source = source_of(root)
    store = make_store(tmp_path / "store", source)
    read, own = [], type(source).read
    monkeypatch.setattr(type(source), "read", lambda self, i: read.append(i) or own(self, i))
    report = find_duplicates({"images": source}, DuplicateConfig(near=False), store=store)
    assert pairs(report) == {("ant/0.png", "bee/9.png")}
    assert report.duplicates[0].classes_differ
    assert len(read) == 2  # only those whose checksums agree
    alone = find_duplicates(
        {"images": StoreImages(store)}, DuplicateConfig(near=False), store=store
    )
    assert pairs(alone) == pairs(report)
    assert not alone.duplicates[0].classes_differ  # classes are not known


def test_a_checksum_that_agrees_by_chance_is_no_duplicate(image_source, monkeypatch):
    monkeypatch.setattr("fkd.analysis.duplicates.fingerprint", lambda data: (1, 2))
    report = find_duplicates({"images": image_source}, DuplicateConfig(near=False))
    assert report.duplicates == []


def test_what_cannot_be_compared_is_told(make_images, tmp_path):
    root = make_images(tmp_path / "images", per_class=2)
    (root / "bee" / "0.png").write_bytes(b"no image")
    for name in ("a", "b"):
        Image.new("RGB", (20 + ord(name), 30), "red").save(root / "cat" / f"{name}.png")
    report = find_duplicates({"images": source_of(root)}, DuplicateConfig())
    assert [Path(name).name for name in report.unreadable] == ["0.png"]
    assert report.num_blank == 2
    assert report.duplicates == []


def test_pairs_of_different_classes_are_listed_first(tmp_path):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    images = {}
    for i, name in enumerate(("a/0", "a/1", "a/2", "b/0")):
        noisy = pixels.astype(int) + draw.integers(-3 * i, 3 * i + 1, pixels.shape)
        images[name] = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).resize((160, 120))
    parts = {"images": source_of(write(tmp_path, images))}
    every = find_duplicates(parts, DuplicateConfig())
    few = find_duplicates(parts, DuplicateConfig(max_pairs=3))
    assert every.num_similar == few.num_similar == 6
    assert [d.classes_differ for d in every.duplicates] == [True] * 3 + [False] * 3
    assert few.duplicates == every.duplicates[:3]
    similar = [d.similarity for d in every.duplicates]
    assert similar[:3] == sorted(similar[:3], reverse=True)
    numbers = duplicate_numbers(every)
    assert numbers["duplicates"][0]["images"][1] == {
        "part": "images",
        "name": "b/0.png",
        "class": "b",
    }


def test_the_figure_has_two_images_of_each(make_images, tmp_path):
    root = make_images(tmp_path / "$images", ("$a_b$", "c"), per_class=2)
    (root / "c" / "9.png").write_bytes((root / "$a_b$" / "0.png").read_bytes())
    parts = {"images": source_of(root)}
    report = find_duplicates(parts, DuplicateConfig())
    figure = draw_duplicates(report, parts)
    assert sum(len(cell.axes) for cell in figure.subfigs) == 2 * len(report.duplicates)
    save_analysis(tmp_path, "duplicates", figure, duplicate_numbers(report))
    text = (tmp_path / "duplicates.svg").read_text("utf-8")
    assert "images: $a_b$" in text
    assert "same content, classes differ" in text


def test_the_figure_of_none_says_so(image_source):
    report = find_duplicates({"images": image_source}, DuplicateConfig(near=False))
    figure = draw_duplicates(report, {"images": image_source})
    assert figure.get_suptitle() == "0 duplicates among 15 images"


@pytest.mark.parametrize("name", ["min_similarity", "max_pairs", "num_workers"])
def test_settings_that_cannot_be(name):
    with pytest.raises(ConfigError, match=name):
        DuplicateConfig(**{name: 0})
