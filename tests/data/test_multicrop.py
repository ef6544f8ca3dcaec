"""The public data set: like any other, in any loop."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD, MultiCropDataset, collate_crops
from fkd.data.sources import ImagesConfig
from fkd.errors import ConfigError, StoreMismatch
from fkd.labels.codecs import Hard
from fkd.labels.losses import SoftTargetLoss


@pytest.fixture
def dataset(image_source, label_store) -> MultiCropDataset:
    return MultiCropDataset(image_source, label_store, crops_per_image=2, size=16)


def test_an_item_is_the_crops_of_one_image_and_their_labels(dataset):
    crops, targets = dataset[0]
    assert len(dataset) == 15
    assert (crops.shape, crops.dtype) == ((2, 3, 16, 16), torch.float32)
    assert len(targets) == 2
    torch.testing.assert_close(targets.dense().sum(1), torch.ones(2))
    assert targets.labels.tolist() == [0, 0]


def test_crops_are_normalized_as_torchvision_does(image_source, label_store, dataset):
    raw = MultiCropDataset(image_source, label_store, crops_per_image=2, size=16, output="uint8")
    crops, _ = raw[3]
    assert crops.dtype == torch.uint8
    expected = v2.functional.normalize(crops / 255, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(dataset[3][0], expected)


def test_the_readme_loop_runs(image_folder, label_store):
    dataset = MultiCropDataset(ImageFolder(image_folder), label_store, crops_per_image=2, size=16)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate_crops)
    sizes = []
    for images, targets in loader:
        logits = torch.zeros(len(images), 4, requires_grad=True)
        loss = SoftTargetLoss()(logits, targets)
        torch.testing.assert_close(loss, F.cross_entropy(logits, targets.dense()))
        sizes.append(tuple(images.shape))
    assert sizes == [(8, 3, 16, 16)] * 3 + [(6, 3, 16, 16)]


def test_collated_crops_are_image_after_image(dataset):
    items = [dataset[4], dataset[9]]
    images, targets = collate_crops(items)
    assert torch.equal(images[:2], items[0][0])
    assert torch.equal(images[2:], items[1][0])
    assert torch.equal(targets.dense()[2:], items[1][1].dense())
    assert targets.labels.tolist() == [0, 0, 1, 1]


def test_passes_use_every_stored_crop_once(dataset):
    """Labels of the store differ from crop to crop, so they tell which crop was used."""
    seen = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        seen.append(dataset[6][1].dense())
    every = torch.cat(seen)
    stored = dataset._store[dataset._store.keys([6])[0]].decode()
    order = [every[:, 0].argsort(), stored[:, 0].argsort()]
    torch.testing.assert_close(every[order[0]], stored[order[1]])


def test_persistent_workers_see_the_next_pass(dataset, image_source, label_store):
    """A plain attribute would be read as 0 in their second pass."""
    other = MultiCropDataset(image_source, label_store, crops_per_image=2, size=16)
    loader = DataLoader(
        dataset, batch_size=15, num_workers=1, persistent_workers=True, collate_fn=collate_crops
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        other.set_epoch(epoch)
        images, _ = next(iter(loader))
        assert torch.equal(images, collate_crops([other[i] for i in range(15)])[0])


LOADERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]


@pytest.mark.parametrize("options", LOADERS)
def test_three_epochs_have_different_crops(image_source, make_store, tmp_path, options):
    """M = 200, m = 4: 12 crops of every image."""
    store = make_store(tmp_path / "store", image_source, num_crops=200, codec="full")
    dataset = MultiCropDataset(image_source, store, crops_per_image=4, size=8)
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate_crops, **options)
    labels = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        labels.append(torch.cat([targets.dense() for _, targets in loader]).view(15, 4, -1))
    for image in torch.cat(labels, dim=1):
        assert len(image.unique(dim=0)) == 12


REPEATING_LOOPS = """
import pickle, sys
from torch.utils.data import DataLoader
from fkd import MultiCropDataset, collate_crops

source, store, loaders = pickle.loads(bytes.fromhex(sys.argv[1]))
for options in loaders:
    dataset = MultiCropDataset(source, store, crops_per_image=2, size=8)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=collate_crops, **options)
    print("loader", [sum(len(crops) for crops, _ in loader) for epoch in range(3)], file=sys.stderr)
"""


def test_repeated_epochs_without_set_epoch_are_warned_of_once(image_source, label_store):
    """In a process of its own, because workers warn on their standard error."""
    # Python shows a warning once per line of code and process, and workers inherit what was shown.
    loaders = [*LOADERS[1:], LOADERS[0]]
    argument = pickle.dumps((image_source, label_store, loaders)).hex()
    run = subprocess.run(
        [sys.executable, "-c", REPEATING_LOOPS, argument], capture_output=True, text=True
    )
    *parts, rest = run.stderr.split("loader [30, 30, 30]\n")
    assert len(parts) == len(loaders), run.stderr
    assert rest == ""
    for part in parts:
        assert part.count("UserWarning") == 1
        assert part.count("set_epoch(epoch)") == 1


def test_the_warning_comes_with_the_first_repeated_image(dataset):
    dataset[3], dataset[5]
    dataset.set_epoch(1)
    dataset[3]
    with pytest.warns(UserWarning, match=r"again in epoch 1, with the same 2 of its 6 .*set_epoch"):
        dataset[3]
    dataset[3]  # only once


def test_it_can_be_pickled_and_divided(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5][0], dataset[5][0])
    subset = Subset(dataset, [3, 8])
    assert torch.equal(
        next(iter(DataLoader(subset, 2, collate_fn=collate_crops)))[0][2:], copy[8][0]
    )


def test_its_name_tells_what_it_holds(dataset):
    assert repr(dataset).startswith("MultiCropDataset(15 images, 2 of 6 crops each, 0 unreadable")
    assert "ms:2" in repr(dataset)


def test_unreadable_images_are_left_out(image_source, make_store, tmp_path):
    store = make_store(tmp_path / "store", image_source, unreadable=(0,))
    dataset = MultiCropDataset(image_source, store, crops_per_image=1, size=8)
    assert len(dataset) == 14
    assert all(len(dataset[i][1]) == 1 for i in range(14))


def test_wrong_images_and_too_many_crops_are_refused(
    label_store, image_source, make_images, tmp_path
):
    with pytest.raises(ConfigError, match="6 crops per image, asked for 8"):
        MultiCropDataset(image_source, label_store, crops_per_image=8)
    other = ImageFolder(make_images(tmp_path / "images", classes=("ant", "bee")))
    with pytest.raises(StoreMismatch, match="5 labeled but not there"):
        MultiCropDataset(other, label_store)


@pytest.mark.parametrize("kind", [str, Path])
def test_images_and_store_may_be_paths(image_folder, image_source, label_store, kind):
    options = {"crops_per_image": 2, "size": 16}
    expected, _ = MultiCropDataset(image_source, label_store, **options)[3]
    for images in (kind(image_folder), ImagesConfig(root=kind(image_folder))):
        given = MultiCropDataset(images, kind(label_store.path), **options)
        assert torch.equal(given[3][0], expected)


def test_the_home_folder_may_be_a_tilde(image_folder, label_store, monkeypatch):
    monkeypatch.setenv("HOME", str(image_folder.parent))
    store = f"~/{os.path.relpath(label_store.path, image_folder.parent)}"
    assert len(MultiCropDataset(f"~/{image_folder.name}", store, crops_per_image=1, size=8)) == 15


@pytest.mark.parametrize("setting", ["crops_per_image", "size", "seed"])
@pytest.mark.parametrize("value", [0, -1, 2.0, 1.5, True, "2"])
def test_whole_numbers_are_needed(image_source, label_store, setting, value):
    if setting == "seed" and value in (0, -1) and not isinstance(value, bool):
        return
    settings = {"crops_per_image": 1, "size": 8} | {setting: value}
    with pytest.raises(ConfigError, match=f"^{setting} must be "):
        MultiCropDataset(image_source, label_store, **settings)


@pytest.mark.parametrize(
    ("setting", "values"),
    {
        "crops_per_image": [None],
        "size": [None],
        "seed": [None],
        "interpolation": ["nearest", "BILINEAR", None, 3],
        "output": ["float16", torch.float32, None],
        "order": ["independent", "random", None],
        "decoder": ["turbo", None],
        "mean": [None, 0.5, (0.5,), (0.5, 0.5), (124, 116, 104), "abc", (float("nan"),) * 3],
        "std": [None, (0, 0, 0), (-1, 1, 1), (58, 57, 57)],
        "student_augment": [None, {}, "color_jitter"],
        "codec": ["ms:none", "best"],
    }.items(),
)
def test_settings_that_cannot_be_are_refused_at_once(image_source, label_store, setting, values):
    """Most of them were taken for another choice, or for another normalization, in silence."""
    for value in values:
        settings = {"crops_per_image": 1, "size": 8} | {setting: value}
        with pytest.raises(ConfigError, match=setting):
            MultiCropDataset(image_source, label_store, **settings)


@pytest.mark.parametrize("store", [None, 3, b"store"])
def test_a_store_is_one_or_its_path(image_source, store):
    with pytest.raises(ConfigError, match=r"^store: give a LabelStore or the path of one"):
        MultiCropDataset(image_source, store, crops_per_image=1, size=8)


def test_a_codec_may_be_its_spelling(image_source, label_store):
    spelled, built = (
        MultiCropDataset(image_source, label_store, crops_per_image=1, size=8, codec=codec)
        for codec in ("hard", Hard())
    )
    assert torch.equal(spelled[0][1].index, built[0][1].index)


@pytest.mark.parametrize(
    ("stored", "codec"),
    [
        ("full", "ms:3"),
        ("ms:3", "ms:2"),
        ("logits:3", "ms:3"),
        ("full", "logits"),
        ("mr:3", "ms:3"),
    ],
)
def test_labels_are_not_read_as_what_they_are_not(
    image_source, make_store, tmp_path, stored, codec
):
    store = make_store(tmp_path / "store", image_source, codec=stored, value_dtype="f32")
    with pytest.raises(ConfigError, match=f"{stored} labels, which cannot be read as {codec}; "):
        MultiCropDataset(image_source, store, crops_per_image=1, size=8, codec=codec)


def test_colors_of_an_array_stay_float32(image_source, label_store):
    half = np.full(3, 0.5)
    dataset = MultiCropDataset(
        image_source, label_store, crops_per_image=1, size=8, mean=half, std=half
    )
    assert dataset[0][0].dtype == torch.float32


@pytest.mark.parametrize("epoch", [-1, 0.5, 1.0, True, None])
def test_an_epoch_is_a_whole_number(dataset, epoch):
    with pytest.raises(ConfigError, match=r"^epoch (must be|is None)"):
        dataset.set_epoch(epoch)
