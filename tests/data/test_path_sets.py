"""Data sets of torchvision and timm that know their files: keys are paths, bytes are the files."""

import json
import os
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset
from timm.data.readers.reader_hfds import ReaderHfds
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.data.readers.reader_image_tar import ReaderImageTar
from torch.utils.data import ChainDataset, ConcatDataset, IterableDataset, Subset, random_split
from torchvision import datasets as tv

from fkd.data.sources import ImagesConfig, as_source, open_source
from fkd.errors import ConfigError
from tests.data.kinds import as_dataset, files_below, pack


def image(path: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """An image of its own, lossless whatever its extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def write(path: pathlib.Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def flowers(root):
    import scipy.io

    folder = root / "flowers-102"
    for i in range(1, 5):
        image(folder / "jpg" / f"image_{i:05d}.jpg", i)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 2, 1]])})
    scipy.io.savemat(folder / "setid.mat", {"trnid": np.array([[4, 2, 3]])})
    return tv.Flowers102(str(root))


def pets(root):
    folder = root / "oxford-iiit-pet"
    for i, name in enumerate(("Birman_2", "beagle_1", "Birman_1")):
        image(folder / "images" / f"{name}.jpg", i)
    lines = ("Birman_2 1 1 1", "beagle_1 2 2 1", "Birman_1 1 1 2")
    write(folder / "annotations" / "trainval.txt", *lines)
    return tv.OxfordIIITPet(str(root))


def food(root):
    names = {"waffles": ["waffles/2", "waffles/1"], "ramen": ["ramen/7"]}
    for i, name in enumerate(name for files in names.values() for name in files):
        image(root / "food-101" / "images" / f"{name}.jpg", i)
    write(root / "food-101" / "meta" / "train.json", json.dumps(names))
    return tv.Food101(str(root))


def cars(root):
    import scipy.io

    folder = root / "stanford_cars"
    for i in range(3):
        image(folder / "cars_train" / f"{i}.jpg", i)
    rows = [(f"{i}.jpg", 1 + i % 2) for i in (2, 0, 1)]
    table = np.array(rows, dtype=[("fname", "O"), ("class", "O")])
    (folder / "devkit").mkdir()
    scipy.io.savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": table})
    names = np.array(["a car", "a van"], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    return tv.StanfordCars(str(root))


def dtd(root):
    for i, name in enumerate(("zigzag/b", "dotted/a")):
        image(root / "dtd" / "dtd" / "images" / f"{name}.jpg", i)
    write(root / "dtd" / "dtd" / "labels" / "train1.txt", "zigzag/b.jpg", "dotted/a.jpg")
    return tv.DTD(str(root))


def aircraft(root):
    folder = root / "fgvc-aircraft-2013b" / "data"
    for i in (1, 2):
        image(folder / "images" / f"000{i}.jpg", i)
    write(folder / "variants.txt", "707-320", "A310")
    write(folder / "images_variant_trainval.txt", "0002 A310", "0001 707-320")
    return tv.FGVCAircraft(str(root))


def sun(root):
    for i, name in enumerate(("a/abbey/sun_x", "b/bog/sun_y")):
        image(root / "SUN397" / f"{name}.jpg", i)
    write(root / "SUN397" / "ClassName.txt", "/a/abbey", "/b/bog")
    return tv.SUN397(str(root))


def country(root):
    for i, name in enumerate(("FR/1", "DE/1", "DE/2")):
        image(root / "country211" / "train" / f"{name}.jpg", i)
    return tv.Country211(str(root))


def eurosat(root):
    for i, name in enumerate(("River/River_1", "Forest/Forest_1")):
        image(root / "eurosat" / "2750" / f"{name}.jpg", i)
    return tv.EuroSAT(str(root))


def imagenette(root):
    for i, name in enumerate(("n01440764/a", "n02102040/b")):
        image(root / "imagenette2" / "train" / f"{name}.JPEG", i)
        (root / "imagenette2" / "val" / name[:9]).mkdir(parents=True)
    return tv.Imagenette(str(root))


def caltech101(root):
    folder = root / "caltech101" / "101_ObjectCategories"
    (folder / "BACKGROUND_Google").mkdir(parents=True)
    for i, name in enumerate(("chair/image_0001", "anchor/image_0001", "anchor/image_0002")):
        image(folder / f"{name}.jpg", i)
    return tv.Caltech101(str(root))


def caltech256(root):
    folder = root / "caltech256" / "256_ObjectCategories"
    for i, name in enumerate(("001.ak47/001_0001", "002.flag/002_0001", "002.flag/002_0002")):
        image(folder / f"{name}.jpg", i)
    return tv.Caltech256(str(root))


def inaturalist(root):
    for i, name in enumerate(("Birds/2/a", "Birds/1/c", "Fungi/0/b")):
        image(root / "2017" / f"{name}.jpg", i)
    return tv.INaturalist(str(root), version="2017")


def sentiment(root):
    for i, kind in enumerate(("negative", "positive")):
        image(root / "rendered-sst2" / "train" / kind / "1.png", i)
    (root / "rendered-sst2" / "valid").mkdir()
    (root / "rendered-sst2" / "test").mkdir()
    return tv.RenderedSST2(str(root))


def signs(root):
    for i, name in enumerate(("00000/b", "00001/a")):
        image(root / "gtsrb" / "GTSRB" / "Training" / f"{name}.ppm", i)
    return tv.GTSRB(str(root))


def clevr(root):
    folder = root / "clevr" / "CLEVR_v1.0"
    for i in range(2):
        image(folder / "images" / "train" / f"CLEVR_{i}.png", i)
    scenes = [{"image_filename": f"CLEVR_{i}.png", "objects": [{}] * (3 + i)} for i in range(2)]
    write(folder / "scenes" / "CLEVR_train_scenes.json", json.dumps({"scenes": scenes}))
    return tv.CLEVRClassification(str(root))


def faces(root):
    folder = root / "lfw-py"
    for i, name in enumerate(("Ann_A", "Bob_B", "Bob_B")):
        image(folder / "lfw_funneled" / name / f"{name}_{max(1, i):04d}.jpg", i)
    write(folder / "peopleDevTrain.txt", "2", "Ann_A\t1", "Bob_B\t2")
    write(folder / "lfw-names.txt", "Ann_A\t1", "Bob_B\t2")
    write(folder / "lfw-funneled.tgz")
    return tv.LFWPeople(str(root), split="train")


MAKERS = (flowers, pets, food, cars, dtd, aircraft, sun, country, eurosat, imagenette)
MAKERS += (caltech101, caltech256, inaturalist, sentiment, signs, clevr, faces)


@pytest.fixture
def no_digests(monkeypatch):
    """Small files stand for those that torchvision would download; their digests differ."""
    for name in ("check_integrity", "_check_integrity"):
        for module in (tv.flowers102, tv.lfw, tv.utils):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda path, md5=None: os.path.isfile(path))


@pytest.mark.parametrize("make", MAKERS)
def test_paths_are_keys_and_files_are_read_undecoded(make, tmp_path, no_digests):
    pytest.importorskip("scipy")
    dataset = make(tmp_path)
    source = as_source(dataset)
    assert len(source) == len(dataset) > 1
    keys = [source.key(i) for i in range(len(source))]
    assert keys == sorted(set(keys))
    truth = {}  # what the data set itself says of each image, by its pixels
    for picture, label in dataset:
        truth[np.asarray(picture).tobytes()] = label
    for i, key in enumerate(keys):
        file = pathlib.Path(source.root, os.fsdecode(key))
        assert source.read(i) == file.read_bytes()
        assert truth.pop(np.asarray(Image.open(file)).tobytes()) == source.label(i)
    assert not truth
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if make is faces:
        names = list(dataset.class_to_idx)
    if names is not None:
        assert source.class_names == [str(name) for name in names]


def test_places_and_imagenet_keep_their_paths(tmp_path):
    """Their indices are checked by digests, so the objects are made without their constructors."""
    file = image(tmp_path / "data_256_standard" / "a" / "1.jpg")
    places = tv.Places365.__new__(tv.Places365)
    places.__dict__ |= {"root": str(tmp_path), "imgs": [(str(file), 1)], "targets": [1]}
    places.__dict__ |= {"classes": ["/a/abbey", "/a/airfield"], "loader": tv.folder.default_loader}
    source = as_source(places)
    assert (source.key(0), source.label(0)) == (b"data_256_standard/a/1.jpg", 1)
    for i, name in enumerate(("n01440764/x", "n01443537/y")):
        image(tmp_path / "val" / f"{name}.JPEG", i)
    imagenet = tv.ImageFolder(str(tmp_path / "val"))
    imagenet.__class__ = tv.ImageNet
    imagenet.__dict__ |= {"split": "val", "root": str(tmp_path), "wnids": imagenet.classes}
    imagenet.classes = [("tench", "Tinca tinca"), ("goldfish",)]
    source = as_source(imagenet)
    assert [source.key(i) for i in range(2)] == [b"n01440764/x.JPEG", b"n01443537/y.JPEG"]
    assert source.class_names == ["n01440764", "n01443537"]


def test_labels_of_the_folder_fit_the_objects_and_their_subsets(make_images, make_store, tmp_path):
    """The keys are those of `fkd label --images.root FOLDER`, whichever object knows the files."""
    folder = make_images(tmp_path / "images")
    labels = make_store(tmp_path / "labels", open_source(ImagesConfig(root=str(folder))))
    whole = tv.ImageFolder(str(folder))
    for dataset in (whole, ImageDataset(str(folder)), ImageDataset(str(folder), load_bytes=True)):
        source = as_source(dataset)
        assert [source.key(i) for i in range(len(source))] == labels.keys()
        half = as_source(Subset(Subset(dataset, range(1, 15, 2)), [3, 0, -1]))
        expected = {as_source(Subset(dataset, [i])).key(0) for i in (7, 1, 13)}
        assert {half.key(i) for i in range(len(half))} == expected < set(labels.keys())
        assert half.class_names == source.class_names
    parts = random_split(whole, [10, 5], torch.Generator().manual_seed(0))
    found = [as_source(part).key(i) for part in parts for i in range(len(part))]
    assert sorted(found) == labels.keys()


def test_a_subset_of_decoded_images_keeps_the_positions_of_the_whole():
    class Pictures:
        targets = (0, 1, 1, 0)

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return np.full((3, 3, 3), i, np.uint8), self.targets[i]

    source = as_source(Subset(Pictures(), [3, 1]))
    assert [source.key(i) for i in range(2)] == [b"00000001", b"00000003"]
    assert [source.label(i) for i in range(2)] == [1, 0]
    assert source.read(1)[-1] == 3


@pytest.mark.parametrize("kind", ["one", "folder", "nested", "older"])
def test_archives_of_timm_have_the_keys_of_archives(kind, image_folder, tmp_path):
    files = [
        (f"{c}/{i}.png", (image_folder / c / f"{i}.png").read_bytes())
        for c in ("ant", "cat")
        for i in range(2)
    ]
    if kind == "nested":
        for name in ("ant", "cat"):
            pack(tmp_path / f"{name}.tar", [(f[4:], d) for f, d in files if f.startswith(name)])
        inner = [
            (f"{name}.tar", (tmp_path / f"{name}.tar").read_bytes()) for name in ("ant", "cat")
        ]
        root = tmp_path / "outer.tar"
        pack(root, inner)
    elif kind == "folder":
        root = tmp_path / "archives"
        root.mkdir()
        pack(root / "0.tar", files[:3])
        pack(root / "1.tar", files[3:])
    else:
        root = tmp_path / "images.tar"
        pack(root, files)
    reader = ReaderImageTar(str(root)) if kind == "older" else ReaderImageInTar(str(root))
    source = as_source(ImageDataset(str(root), reader=reader))
    keys = [source.key(i) for i in range(len(source))]
    if kind == "nested":
        assert keys[0] == b"outer.tar/ant.tar/0.png"
    else:
        ours = open_source(ImagesConfig(root=str(root)))
        assert keys == [ours.key(i) for i in range(len(ours))]
        assert ours.class_names == source.class_names
    assert [source.read(i) for i in range(4)] == [data for _, data in files]
    assert [source.class_names[source.label(i)] for i in range(4)] == ["ant", "ant", "cat", "cat"]


@pytest.mark.parametrize("remap", [False, True])
def test_timm_reads_data_sets_of_hugging_face(remap, image_folder):
    """As `create_dataset("hfds/...")` makes them, which would look for the data set on the hub."""
    dataset = as_dataset(files_below(image_folder)).rename_column("label", "kind")
    dataset = dataset.add_column("label", [0] * len(dataset))
    reader = ReaderHfds.__new__(ReaderHfds)
    reader.dataset, reader.image_key, reader.label_key = dataset, "image", "kind"
    reader.remap_class = remap
    if remap:
        with pytest.raises(ConfigError, match="ReaderHfds"):
            as_source(ImageDataset("", reader=reader))
        return
    source = as_source(Subset(ImageDataset("", reader=reader), [7, 12]))
    assert [source.key(i) for i in range(2)] == [b"00000007", b"00000012"]
    assert [source.class_names[source.label(i)] for i in range(2)] == ["bee", "cat"]


def folder_with(folder, **attributes):
    dataset = tv.ImageFolder(str(folder))
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


class Streamed(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter(())


REFUSED = {
    "has a transforms": lambda folder: folder_with(folder, transforms=str),
    "has its own loader": lambda folder: folder_with(folder, loader=Image.open),
    "has ant/0.png twice": lambda folder: folder_with(
        folder, samples=2 * tv.ImageFolder(str(folder)).samples[:1]
    ),
    "has a transform,": lambda folder: Subset(ImageDataset(str(folder), transform=str), [0]),
    "reads images as L": lambda folder: ImageDataset(str(folder), input_img_mode="L"),
    "is several data sets in one": lambda folder: ConcatDataset([folder_with(folder)]),
    "iterable and has no images by position": lambda folder: Streamed(),
    "ChainDataset is iterable": lambda folder: ChainDataset([Streamed()]),
    "names image 99 of a data set of 15": lambda folder: Subset(folder_with(folder), [0, 99]),
    "names an image twice": lambda folder: Subset(folder_with(folder), [0, -15]),
    "keeps no list of files": lambda folder: ImageDataset("", reader=[(None, 0)]),
    "is not a data set of images": lambda folder: object(),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_would_be_skipped_or_read_wrongly_is_refused(sentence, image_folder):
    with pytest.raises(ConfigError, match=sentence):
        as_source(REFUSED[sentence](image_folder))
