"""Images in tar archives: the same images and classes as unpacked, whatever says the class."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fkd.data.sources import ImagesConfig, ImageSource, load, open_source
from fkd.errors import ConfigError, ImageError


def pixels(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    draw = np.random.default_rng(seed).integers(0, 255, (9 + seed % 3, 8, 3), dtype=np.uint8)
    Image.fromarray(draw).save(buffer, kind)
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def source_of(root: Path, **options) -> ImageSource:
    return open_source(ImagesConfig(root=str(root), **options))


IMAGES = {f"{name}/{i}.png": pixels(10 * c + i) for c, name in enumerate("bca") for i in range(4)}


def test_folders_in_archives_are_classes(tmp_path):
    names = sorted(IMAGES)
    pack(tmp_path / "0.tar", {name: IMAGES[name] for name in names[::2]})
    pack(tmp_path / "1.tar", {f"./{name}": IMAGES[name] for name in names[1::2]})
    source = source_of(tmp_path)
    assert source.class_names == ["a", "b", "c"]
    keys = [source.key(i) for i in range(len(source))]
    assert keys == sorted(keys)
    assert len(source) == len(IMAGES)
    for i in range(len(source)):
        member = os.fsdecode(source.key(i)).partition("/")[2]
        assert source.read(i) == IMAGES[member]
        assert source.class_names[source.label(i)] == member[0]
        assert load(source, i).image.shape[0] == 3


@pytest.mark.parametrize("kind", ["cls number", "cls name", "json cls", "json label", "json name"])
def test_notes_beside_the_images_are_classes(kind, tmp_path):
    members = {}
    for i in range(12):
        note = {
            "cls number": (".cls", b"%d\n" % (i % 11)),
            "cls name": (".cls", b"class %d" % (i % 11)),
            "json cls": (".json", json.dumps({"cls": i % 11, "label": "no"}).encode()),
            "json label": (".json", json.dumps({"label": str(i % 11)}).encode()),
            "json name": (".json", json.dumps({"class": f"class {i % 11}"}).encode()),
        }[kind]
        members[f"{i:03}.jpg"] = pixels(i, "JPEG")
        members[f"{i:03}{note[0]}"] = note[1]
    source = source_of(pack(tmp_path / "train-0.tar", members))
    found = [source.class_names[source.label(i)] for i in range(12)]
    if "name" in kind:  # sorted as text, like folders
        assert found == [f"class {i % 11}" for i in range(12)]
    else:
        assert [source.label(i) for i in range(12)] == [i % 11 for i in range(12)]
        assert source.class_names == [str(i) for i in range(11)]


def test_numbers_get_their_names_from_a_file(tmp_path):
    members = {"a.jpg": pixels(0), "a.cls": b"1", "b.jpg": pixels(1)}
    pack(tmp_path / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    source = source_of(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert [source.label(i) for i in range(2)] == [1, -1]
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(ConfigError, match="label 1, but names for only 1"):
        source_of(tmp_path)


def test_archives_without_classes(tmp_path):
    source = source_of(pack(tmp_path / "0.tar", {"a.jpg": pixels(0), "b.txt": b"a caption"}))
    assert source.class_names is None
    assert source.remarks == ["1 members of the archives are left out, as no images"]


def test_splits_are_chosen_by_the_names_of_archives(tmp_path):
    for split in ("train", "val"):
        for i in range(2):
            pack(tmp_path / f"{split}-{i:05}.tar", {f"{split[0]}{i}.png": pixels(i)})
    assert source_of(tmp_path).key(0) == b"train-00000.tar/t0.png"
    assert source_of(tmp_path, split="val").key(1) == b"val-00001.tar/v1.png"
    with pytest.raises(ConfigError, match="has no 'test', only train, val"):
        source_of(tmp_path, split="test")


def test_keys_ascend_where_names_of_archives_are_prefixes(tmp_path):
    for name in ("a", "a.b", "a-b", "a0"):
        pack(tmp_path / f"{name}.tar", {"x.png": pixels(0), "a/y.png": pixels(1)})
    source = source_of(tmp_path)
    keys = [source.key(i) for i in range(len(source))]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax"])
def test_all_tar_formats_and_long_names(kind, tmp_path):
    formats = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    name = "/".join(["folder" * 8] * 3) + "/é.png"
    with tarfile.open(tmp_path / "0.tar", "w", format=formats[kind]) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(pixels(3))
        archive.addfile(info, io.BytesIO(pixels(3)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "x.png"
        archive.addfile(link)
    source = source_of(tmp_path)
    assert len(source) == 1
    assert os.fsdecode(source.key(0)) == f"0.tar/{name}"
    assert source.read(0) == pixels(3)


def test_photographs_win_over_an_archive_beside_them(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(pixels(i))
    pack(tmp_path / "backup.tar", {"x.png": pixels(9)})
    source = source_of(tmp_path)
    assert len(source) == 2
    assert "1 .tar" in source.remarks[0]
    assert len(source_of(tmp_path, format="tar")) == 1


REFUSED = {
    "compressed": lambda path: pack(path, {"a.png": pixels(0)}, "w:gz"),
    "cut": lambda path: path.write_bytes(pack(path, {"a.png": pixels(0)}).read_bytes()[:600]),
    "no tar": lambda path: path.write_bytes(b"hello" * 500),
    "empty": lambda path: path.write_bytes(b""),
    "no images": lambda path: pack(path, {"a.txt": b"x"}),
    "a name twice": lambda path: _twice(path),
    "number and name": lambda path: pack(path, {"a/x.png": pixels(0), "y.png": b"", "y.cls": b"1"}),
    "a class of nothing": lambda path: pack(path, {"x.png": pixels(0), "x.json": b'{"cls": 1.5}'}),
    "broken json": lambda path: pack(path, {"x.png": pixels(0), "x.json": b"{"}),
    "a large class": lambda path: pack(path, {"x.png": pixels(0), "x.cls": b"123456789"}),
    "a negative class": lambda path: pack(path, {"x.png": pixels(0), "x.cls": b"-7"}),
    "an image and its mask": lambda path: pack(
        path, {"x.jpg": pixels(0), "x.mask.png": pixels(1), "x.cls": b"1"}
    ),
    "a pipe": lambda path: os.mkfifo(path),
    "a note too long": lambda path: pack(path, {"x.png": pixels(0), "x.cls": b" " * (1 << 21)}),
}


def _twice(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for seed in range(2):
            info = tarfile.TarInfo("a.png")
            info.size = len(pixels(seed))
            archive.addfile(info, io.BytesIO(pixels(seed)))


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_archives_that_cannot_be_used_are_refused(make, tmp_path):
    make(tmp_path / "0.tar")
    with pytest.raises(ConfigError, match=r"images\.root: "):
        source_of(tmp_path)


def test_an_archive_that_changes_under_way(tmp_path):
    path = pack(tmp_path / "0.tar", {"a.png": pixels(0), "b.png": pixels(1)})
    source = source_of(tmp_path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ImageError, match=r"0\.tar/b\.png cannot be read \(it ends before"):
        source.read(1)
    path.unlink()
    with pytest.raises(ImageError, match=r"0\.tar/a\.png cannot be read \(no such file"):
        source.read(0)


def test_hostile_names_stay_names(tmp_path):
    names = ["../../etc/x.png", "/abs/y.png", "a\x1b[31m/z.png", "./w.png"]
    pack(tmp_path / "0.tar", {name: pixels(i) for i, name in enumerate(names)})
    source = source_of(tmp_path)
    assert sorted(source.read(i) for i in range(4)) == sorted(pixels(i) for i in range(4))
    assert not any("\x1b" in source.name(i) for i in range(4))
