"""The public data set: like any other, in any loop."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD, MultiCropDataset, collate_crops
from fkd.errors import ConfigError, StoreMismatch
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
    images, targets = collate_crops([dataset[4], dataset[9]])
    assert torch.equal(images[:2], dataset[4][0])
    assert torch.equal(images[2:], dataset[9][0])
    assert torch.equal(targets.dense()[2:], dataset[9][1].dense())
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


def test_persistent_workers_see_the_next_pass(dataset):
    """A plain attribute would be read as 0 in their second pass."""
    loader = DataLoader(
        dataset, batch_size=15, num_workers=1, persistent_workers=True, collate_fn=collate_crops
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        images, _ = next(iter(loader))
        assert torch.equal(images, collate_crops([dataset[i] for i in range(15)])[0])


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
