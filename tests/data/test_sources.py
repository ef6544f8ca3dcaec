"""Sources: which images there are, in which order, with which labels; what is refused and how."""

import io
import os
import pickle
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from fkd.data.arrays import ArraySource
from fkd.data.folder import FolderSource, PackedKeys, scan_folder
from fkd.data.sources import (
    ImagesConfig,
    ImageSource,
    as_source,
    load,
    open_source,
    spread_images,
)
from fkd.errors import ConfigError, ImageError


def png(color=(1, 2, 3), size=(4, 3)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, *names):
    """Write images with distinct colors; names may be bytes."""
    for i, name in enumerate(names):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png((i, i, i)))


def keys(source):
    return [source.key(i) for i in range(len(source))]


class TestClassFolders:
    def test_labels_follow_the_sorted_folder_names(self, tmp_path):
        write(tmp_path, "10/b.png", "9/a.png", "10/a.png", "cat/deep/er/x.JPG")
        source = open_source(ImagesConfig(root=str(tmp_path)))
        assert isinstance(source, ImageSource)
        assert source.class_names == ["10", "9", "cat"]
        assert keys(source) == [b"10/a.png", b"10/b.png", b"9/a.png", b"cat/deep/er/x.JPG"]
        assert [source.label(i) for i in range(4)] == [0, 0, 1, 2]

    def test_same_classes_and_labels_as_torchvision(self, tmp_path):
        write(tmp_path, "b/1.png", "a/2.png", "a.x/3.png", "B/4.png", "a/c/5.png")
        theirs = ImageFolder(str(tmp_path))
        ours = scan_folder(str(tmp_path))
        assert ours.class_names == theirs.classes
        labels = {os.path.relpath(path, tmp_path): label for path, label in theirs.samples}
        assert {k.decode(): ours.label(i) for i, k in enumerate(keys(ours))} == labels

    def test_names_that_differ_little_stay_apart(self, tmp_path):
        names = [b"n.5/a.v1.jpg", b"n.5/a.v2.jpg", b"n.5/E.jpg", b"n.5/e.jpg", b"n.5/e.png"]
        names += ["n.5/caf\u00e9.jpg".encode(), "n.5/cafe\u0301.jpg".encode()]
        names += [
            b"n.5/\xff.jpg",
            b"n.5/new\nline.jpg",
            b"n.5/a b.jpg",
            b"n.5/" + b"x" * 251 + b".jpg",
        ]
        write(tmp_path, *names)
        source = scan_folder(str(tmp_path))
        assert keys(source) == sorted(names)
        for i, key in enumerate(keys(source)):
            written = names.index(key)
            assert load(source, i).image[0, 0, 0] == written

    def test_names_are_printable(self, tmp_path):
        write(tmp_path, b"c/\xff\n\x1b[31m.jpg")
        name = scan_folder(str(tmp_path)).name(0)
        assert name.isprintable()
        assert name.endswith("c/\\xff\\n\\x1b[31m.jpg")

    def test_only_visible_image_files_count(self, tmp_path):
        write(tmp_path, "a/1.png", "a/._1.png", ".git/2.png", "a/.ipynb_checkpoints/3.png")
        (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
        (tmp_path / "a" / "labels.txt").write_text("x")
        (tmp_path / "LICENSE").write_text("x")
        assert keys(scan_folder(str(tmp_path))) == [b"a/1.png"]

    def test_empty_class_folder_is_refused(self, tmp_path):
        write(tmp_path, "a/1.png")
        (tmp_path / "b").mkdir()
        with pytest.raises(ConfigError, match=r"class folder b of .* holds no image"):
            scan_folder(str(tmp_path))

    def test_loose_images_beside_class_folders_are_refused(self, tmp_path):
        write(tmp_path, "a/1.png", "loose.png")
        with pytest.raises(ConfigError, match=r"1 images \(loose.png ...\) beside 1 class folders"):
            open_source(ImagesConfig(root=str(tmp_path)))

    def test_links_are_followed_and_circles_refused(self, tmp_path):
        write(tmp_path / "elsewhere", "1.png")
        root = tmp_path / "root"
        root.mkdir()
        (root / "a").symlink_to(tmp_path / "elsewhere")
        assert keys(scan_folder(str(root))) == [b"a/1.png"]
        (tmp_path / "elsewhere" / "up").symlink_to(root)
        with pytest.raises(ConfigError, match="link to a folder that contains it"):
            scan_folder(str(root))

    @pytest.mark.skipif(os.getuid() == 0, reason="root may list every folder")
    def test_unlistable_folder_is_not_left_out(self, tmp_path):
        write(tmp_path, "a/1.png", "b/1.png")
        (tmp_path / "b").chmod(0)
        with pytest.raises(ConfigError, match="cannot be listed"):
            scan_folder(str(tmp_path))


class TestFlatFolder:
    def test_has_no_classes(self, tmp_path):
        write(tmp_path, "b.png", "a.jpg")
        (tmp_path / "x.jpg").mkdir()  # a folder, whatever its name
        source = open_source(ImagesConfig(root=str(tmp_path)))
        assert source.class_names is None
        assert keys(source) == [b"a.jpg", b"b.png"]
        assert source.label(0) == -1

    def test_flat_takes_nested_images_without_classes(self, tmp_path):
        write(tmp_path, "a/1.png", "loose.png")
        source = open_source(ImagesConfig(root=str(tmp_path), format="flat"))
        assert keys(source) == [b"a/1.png", b"loose.png"]
        assert source.class_names is None


class TestMissing:
    def test_no_such_folder(self, tmp_path):
        for file_format in ("auto", "folder", "parquet"):
            with pytest.raises(ConfigError, match=r"images\.root: .*nowhere does not exist"):
                open_source(ImagesConfig(root=str(tmp_path / "nowhere"), format=file_format))

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "x.zip").write_bytes(b"PK")
        with pytest.raises(ConfigError, match="is not a folder"):
            open_source(ImagesConfig(root=str(tmp_path / "x.zip")))

    def test_folder_without_images(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / "photo.heic").write_bytes(b"x")
        with pytest.raises(ConfigError, match=r"no image files \(\.jpg, .*\) below"):
            open_source(ImagesConfig(root=str(tmp_path)))

    def test_unknown_format(self):
        with pytest.raises(ConfigError, match=r"unknown format 'zip'; choose from auto, folder"):
            ImagesConfig(root="x", format="zip")


class TestReading:
    def test_load_gives_pixels_and_checksum_of_the_file(self, tmp_path):
        write(tmp_path, "a.png")
        loaded = load(scan_folder(str(tmp_path)), 0)
        data = (tmp_path / "a.png").read_bytes()
        assert loaded.image.shape == (3, 3, 4)
        assert loaded.crc32 == zlib.crc32(data)
        assert loaded.num_bytes == len(data)

    def test_fifo_is_refused_at_once(self, tmp_path):
        write(tmp_path, "a.png")
        os.mkfifo(tmp_path / "b.png")
        source = scan_folder(str(tmp_path))
        assert len(source) == 2
        with pytest.raises(ImageError, match=r"b\.png is not a regular file"):
            source.read(1)

    def test_device_is_refused(self, tmp_path):
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        with pytest.raises(ImageError, match="not a regular file"):
            scan_folder(str(tmp_path)).read(0)

    def test_vanished_file(self, tmp_path):
        write(tmp_path, "a.png")
        source = scan_folder(str(tmp_path))
        (tmp_path / "a.png").unlink()
        with pytest.raises(ImageError, match=r"a\.png cannot be read \(No such file"):
            load(source, 0)

    @pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
    def test_unreadable_mode(self, tmp_path):
        write(tmp_path, "a.png")
        (tmp_path / "a.png").chmod(0)
        with pytest.raises(ImageError, match="Permission denied"):
            scan_folder(str(tmp_path)).read(0)

    def test_permission_error_becomes_one_sentence(self, tmp_path, monkeypatch):
        """Runs as root too, where modes are not obeyed."""
        write(tmp_path, "a.png")
        source = scan_folder(str(tmp_path))

        def refuse(path, flags):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(ImageError, match=r"a\.png cannot be read \(Permission denied\)"):
            source.read(0)

    def test_too_many_open_files_is_not_blamed_on_the_image(self, tmp_path, monkeypatch):
        write(tmp_path, "a.png")
        source = scan_folder(str(tmp_path))

        def refuse(path, flags):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(ConfigError, match="ulimit -n"):
            source.read(0)

    def test_source_survives_pickling(self, tmp_path):
        write(tmp_path, "b/1.png", "a/1.png")
        source = scan_folder(str(tmp_path))
        copy = pickle.loads(pickle.dumps(source))
        assert keys(copy) == keys(source)
        assert copy.read(1) == source.read(1)
        assert repr(copy) == f"FolderSource({str(tmp_path)!r}, 2 images, 2 classes)"


class TestPackedKeys:
    def test_gives_back_every_key(self):
        packed = PackedKeys([b"", b"a", b"bc" * 1000])
        assert list(packed) == [b"", b"a", b"bc" * 1000]
        with pytest.raises(IndexError):
            packed[3]
        assert list(PackedKeys([])) == []


class FakeDataset:
    """What torchvision's array data sets look like."""

    def __init__(self, items, targets=None, classes=None, transform=None):
        self.items, self.transform = items, transform
        if targets is not None:
            self.targets = targets
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i], 0


class TestAnyDataset:
    def test_source_is_taken_as_it_is(self, tmp_path):
        write(tmp_path, "a.png")
        source = scan_folder(str(tmp_path))
        assert as_source(source) is source

    def test_image_folder_keeps_its_labels(self, tmp_path):
        write(tmp_path, "b/1.png", "a/2.png", "a.x/3.png")
        dataset = ImageFolder(str(tmp_path))
        source = as_source(dataset)
        assert isinstance(source, FolderSource)
        assert keys(source) == sorted(keys(source)) == keys(scan_folder(str(tmp_path)))
        labels = {os.path.relpath(path, tmp_path): label for path, label in dataset.samples}
        assert {k.decode(): source.label(i) for i, k in enumerate(keys(source))} == labels

    def test_transforms_and_loaders_are_refused_not_skipped(self, tmp_path):
        write(tmp_path, "a/1.png")
        with pytest.raises(ConfigError, match="has a transform"):
            as_source(ImageFolder(str(tmp_path), transform=lambda image: image))
        with pytest.raises(ConfigError, match="has its own loader"):
            as_source(ImageFolder(str(tmp_path), loader=Image.open))
        with pytest.raises(ConfigError, match="has a transform"):
            as_source(FakeDataset([], transform=lambda image: image))

    def test_pictures_become_ppm_files_with_the_same_pixels(self):
        pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
        items = [Image.fromarray(pixels[0]), pixels[1], Image.fromarray(pixels[2]).convert("L")]
        source = as_source(FakeDataset(items, targets=[2, 0, 1], classes=["x", "y", "z"]))
        assert isinstance(source, ArraySource)
        assert keys(source) == [b"00000000", b"00000001", b"00000002"]
        assert [source.label(i) for i in range(3)] == [2, 0, 1]
        assert source.class_names == ["x", "y", "z"]
        assert source.read(0) == b"P6\n5 6\n255\n" + pixels[0].tobytes()
        for i in (0, 1):
            expected = torch.from_numpy(pixels[i]).permute(2, 0, 1)
            assert torch.equal(load(source, i).image, expected)
        gray = load(source, 2).image
        assert torch.equal(gray[0], gray[2])

    def test_labels_without_names_get_numbers(self):
        source = as_source(
            FakeDataset([Image.new("RGB", (1, 1))] * 2, targets=torch.tensor([0, 4]))
        )
        assert source.class_names == ["0", "1", "2", "3", "4"]

    @pytest.mark.parametrize(
        "kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
    )
    def test_labels_of_every_kind_of_integer(self, kind):
        targets = np.array([0, 1], kind)
        for labels in (targets, targets.tolist(), torch.from_numpy(targets)):
            source = as_source(FakeDataset([Image.new("RGB", (1, 1))] * 2, targets=labels))
            assert [source.label(i) for i in range(2)] == [0, 1]
            assert source.class_names == ["0", "1"]

    @pytest.mark.parametrize(
        ("targets", "classes", "message"),
        [
            ([0.5, 1.0], None, "targets of the data set FakeDataset are float64 of shape"),
            (["a", "b"], None, "not one class id for each image"),
            (np.array([[0], [1]]), None, r"shape \(2, 1\)"),
            ([0, 2**40], None, f"has label {2**40}, more than the classes of 2 images"),
            ([0, 5_000_000], None, "has label 5000000, more than"),
            ([0, -7], None, "has label -7, but a class is a number from 0"),
            ([0, 2], ["a", "b"], "has label 2, but names for only 2 classes"),
        ],
    )
    def test_what_is_no_class_is_refused(self, targets, classes, message):
        items = [Image.new("RGB", (1, 1))] * 2
        with pytest.raises(ConfigError, match=message):
            as_source(FakeDataset(items, targets=targets, classes=classes))

    def test_without_labels_there_are_no_classes(self):
        source = as_source(FakeDataset([Image.new("RGB", (1, 1))], classes=["x"]))
        assert source.class_names is None
        assert source.label(0) == -1

    def test_subset_is_a_sequence_of_pictures(self):
        dataset = FakeDataset([Image.new("RGB", (1, 1), (i, i, i)) for i in range(4)])
        assert load(as_source(Subset(dataset, [2])), 0).image.flatten().tolist() == [2, 2, 2]

    def test_tensors_are_refused(self):
        source = as_source(FakeDataset([torch.zeros(3, 2, 2)]))
        with pytest.raises(ConfigError, match="image 0 of FakeDataset is a Tensor"):
            source.read(0)

    def test_something_else_is_refused(self):
        with pytest.raises(ConfigError, match="a int is not a data set"):
            as_source(3)


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_absent_files_say_how_to_get_them(self, tmp_path, name):
        with pytest.raises(
            ConfigError, match=r"holds no complete CIFAR100?.*images\.download true"
        ):
            open_source(ImagesConfig(root=str(tmp_path), format=name))

    def test_split_must_exist(self, tmp_path):
        with pytest.raises(ConfigError, match=r"images\.split: CIFAR has train and test, no 'val'"):
            open_source(ImagesConfig(root=str(tmp_path), format="cifar10", split="val"))


class TestPaths:
    def test_a_path_is_a_source(self, tmp_path):
        write(tmp_path, "a/1.png", "b/1.png")
        for root in (str(tmp_path), tmp_path, ImagesConfig(root=tmp_path)):
            assert keys(as_source(root)) == [b"a/1.png", b"b/1.png"]

    def test_one_that_is_not_there_is_refused(self):
        with pytest.raises(ConfigError, match=r"images\.root: nowhere does not exist"):
            as_source("nowhere")


@pytest.mark.parametrize("settings", [{"root": None}, {"split": None}, {"split": 3}])
def test_settings_of_another_type_are_refused_at_once(settings):
    with pytest.raises(ConfigError, match=r"images\.(root|split) is "):
        ImagesConfig(**({"root": "photos"} | settings))


@given(st.integers(0, 300), st.integers(1, 100))
def test_spread_images_are_distinct_and_reach_from_end_to_end(count, most):
    places = spread_images(range(count), most)
    assert places == sorted(set(places))
    assert len(places) == min(count, most)
    if len(places) > 1:
        assert (places[0], places[-1]) == (0, count - 1)
        steps = np.diff(places)
        assert steps.max() - steps.min() <= 1
