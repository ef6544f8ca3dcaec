"""Label sets of ml-dr: crops and flips alone are imported, everything else is refused."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from fkd.data.sources import ImagesConfig, open_source
from fkd.errors import ConfigError, FormatError, MissingLabel
from fkd.labeling.foreign.files import positions_in_folder
from fkd.labeling.foreign.reinforced import read_reinforced
from fkd.labeling.foreign.run import ImportConfig, import_labels
from fkd.labels.codec_names import parse_codec

NAMES = ["ant", "bee", "cat", "dog", "elk"]
BOX, PROB = (1, 2, 3, 4), ([0.1, 0.6, 0.2], [4, 0, 2])


def sample(box=BOX, flip=True, prob=PROB) -> dict:
    return {"params": [box, flip], "prob": prob}


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read(content, codec=None):
    return read_reinforced(saved(content, pickle_protocol=4), "x/3.pth.tar", 5, codec)


def test_samples_are_read_number_by_number():
    second = sample((0, 0, 9, 9), False, ([0.25, 0.25, 0.5], [3, 1, 4]))
    found = read((3, [sample(), second]))
    assert found.codec == parse_codec("ms:3")
    assert found.boxes((9, 9)).tolist() == [[1, 2, 3, 4], [0, 0, 9, 9]]
    assert found.flip.tolist() == [True, False]
    assert found.label.ids.tolist() == [[0, 2, 4], [4, 1, 3]]  # ties: the lower id
    assert found.label.values.tolist() == np.float32([[0.6, 0.2, 0.1], [0.5, 0.25, 0.25]]).tolist()


AUGMENTED = {
    "RandAugment": [BOX, True, [("Rotate", 3.0)]],
    "erasing": [BOX, True, (1, 2, 3, 4)],
    "mixing": [BOX, True, 0.3],
    "no flip": [BOX],
    "half a pixel": [(1.5, 2, 3, 4), True],
    "three numbers": [(1, 2, 3), True],
    "flip of 2": [BOX, 2],
    "nothing": [],
}


@pytest.mark.parametrize("params", AUGMENTED.values(), ids=AUGMENTED)
def test_other_augmentations_are_refused(params):
    with pytest.raises(FormatError, match="only sets of random crops"):
        read((3, [{"params": params, "prob": PROB}]))


REFUSED = {
    "a number": (3, "no number of an image"),
    "another image": ((4, [sample()]), "has the labels of image 4; it was renamed"),
    "no samples": ((3, []), "no samples"),
    "no prob": ((3, [{"params": [BOX, True]}]), "no params and prob"),
    "no pair": ((3, [sample(prob=[0.1])]), "no pair of probabilities"),
    "different lengths": ((3, [sample(prob=([0.1], [1, 2]))]), "1 probabilities of 2 classes"),
    "different K": ((3, [sample(), sample(prob=([0.1], [1]))]), "different numbers of classes"),
    "text": ((3, [sample(prob=(["a"], [1]))]), "something else than numbers"),
    "unknown class": ((3, [sample(prob=([0.1], [5]))]), "no whole number from 0 to 4"),
    "a class twice": ((3, [sample(prob=([0.1, 0.2], [1, 1]))]), "names a class twice"),
    "above 1": ((3, [sample(prob=([0.8, 0.9], [1, 2]))]), "no probabilities"),
    "nothing kept": ((3, [sample(prob=([], []))]), "0 probabilities"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_impossible_files_are_refused(content, reason):
    with pytest.raises(FormatError, match=rf"x/3\.pth\.tar: .*{reason}"):
        read(content)


@pytest.mark.parametrize("box", [(0, 0, 10, 9), (-1, 0, 3, 3), (0, 0, 0, 3), (7, 0, 3, 3)])
def test_every_box_must_fit_its_image(box):
    with pytest.raises(FormatError, match="does not fit its image of 9x9 pixels"):
        read((3, [sample(box)])).boxes((9, 9))


def test_a_set_becomes_a_store(tmp_path, image_folder, image_source):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    (tmp_path / "labels").mkdir()
    for i in range(15):
        content = (i, [sample((0, 0, 2, 1 + j), j == 1) for j in range(3)])
        (tmp_path / "labels" / f"{i}.pth.tar").write_bytes(saved(content, pickle_protocol=4))
    config = ImportConfig(
        images=ImagesConfig(root=str(image_folder)),
        labels=str(tmp_path / "labels"),
        format="ml-dr",
        out=str(tmp_path / "store"),
        classes=str(names),
    )
    result = import_labels(config)
    store = result.store
    assert (store.num_images, store.num_crops, store.codec.name) == (15, 3, "ms:3")
    assert store.config["teachers"] == [{"name": "unknown", "temperature": 1.0}]
    assert store.canaries == ()
    entry = store[image_source.key(7)]
    assert entry.records.box.tolist() == [[0, 0, 2, 1], [0, 0, 2, 2], [0, 0, 2, 3]]
    assert entry.label.ids[0].tolist() == [0, 2, 4]
    assert (result.num_known, result.num_right) == (15, 5)  # the five ants
    (tmp_path / "labels" / "9.pth.tar").unlink()
    with pytest.raises(MissingLabel, match=r"1 of 15 images have no labels.*9\.pth\.tar"):
        import_labels(config)


@pytest.fixture
def tricky_folder(tmp_path):
    """Classes, folders and files of which one name begins with another."""
    pixels = Image.new("RGB", (8, 8))
    names = ["cat/1.jpg", "cat/b/2.png", "cat/b-c/3.png", "cat-like/4.jpg", "cat.x/5.jpg"]
    for name in [*names, "Dog/6.JPG", "dog/7.webp", "cat/10.png", "cat/b.png", "\u00e9/8.bmp"]:
        (tmp_path / "tricky" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels.save(tmp_path / "tricky" / name)
    return tmp_path / "tricky"


def test_positions_are_those_of_torchvision(tricky_folder):
    source = open_source(ImagesConfig(root=str(tricky_folder), format="classes"))
    paths = [os.path.relpath(path, tricky_folder) for path, _ in ImageFolder(tricky_folder).samples]
    positions = positions_in_folder(source)
    assert positions != list(range(len(source)))  # or this would show nothing
    assert [paths[n] for n in positions] == [os.fsdecode(source.key(i)) for i in range(10)]


@pytest.mark.parametrize("name", ["cat/x.gif", "cat/x.avif"])
def test_images_that_torchvision_leaves_out_are_refused(name, tricky_folder):
    Image.new("RGB", (8, 8)).save(tricky_folder / name)
    source = open_source(ImagesConfig(root=str(tricky_folder), format="classes"))
    with pytest.raises(ConfigError, match=rf"which would not have .*{name}"):
        positions_in_folder(source)


def test_images_in_no_class_folder_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"which would not have .*x\.png"):
        positions_in_folder(open_source(ImagesConfig(root=str(tmp_path))))
