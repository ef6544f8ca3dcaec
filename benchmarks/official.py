"""The official FKD structure, in our own words: what the paper's authors' code does, step by step.

    labels      one torch.save file per image: [boxes, flips, labels] of all M crops
    loader      read the picture and the file, draw m of M, then per crop: crop and resize with
                Pillow, flip, ToTensor, Normalize; a batch is put together crop by crop
    loss        labels spread out to all C classes, then a batched dot product
    generator   per image: M crops through Pillow, a forward pass in chunks of 50, sort, torch.save

Source: read from github.com/szq0214/FKD as a description of layout and order; no code is taken.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD
from fkd.store import LabelStore

CHUNK = 50  # crops in a forward pass of the generator
OfficialLabels = list[np.ndarray]


def label_file(folder: Path, key: bytes) -> Path:
    """Where the labels of an image lie: its name with .tar, though it is no archive."""
    return (folder / key.decode()).with_suffix(".tar")


def write_labels(folder: Path, store: LabelStore) -> None:
    """The content of a store (of a codec with ids and values) in the official layout."""
    for key in store:
        entry = store[key]
        assert entry.index is not None
        assert entry.value is not None
        save_labels(label_file(folder, key), entry.records, entry.size, entry.index, entry.value)


def save_labels(
    file: Path, records: CropRecords, size: tuple[int, int], index: np.ndarray, value: np.ndarray
) -> None:
    """One file: boxes float32 (M, 4) as fractions, flips (M,), ids and values float32 (M, 2, K)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    boxes = (records.box / [*size, *size]).astype(np.float32)
    torch.save([boxes, records.flip, np.stack([index, value], axis=1).astype(np.float32)], file)


def read_labels(file: Path) -> OfficialLabels:
    """What `save_labels` wrote."""
    labels: OfficialLabels = torch.load(file, weights_only=False)
    return labels


class OfficialDataset(Dataset[Any]):
    """Items are m crops, float32 (3, S, S) each, and their labels (2, K) each."""

    def __init__(self, images: Path, labels: Path, crops_per_image: int, size: int) -> None:
        self._images = ImageFolder(str(images))
        self._files = [
            label_file(labels, Path(path).relative_to(images).as_posix().encode())
            for path, _ in self._images.samples
        ]
        self._m = crops_per_image
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[list[Tensor], list[Tensor]]:
        picture, _ = self._images[index]
        boxes, flips, labels = read_labels(self._files[index])
        width, height = picture.size
        chosen = torch.randperm(len(flips))[: self._m].tolist()
        crops = []
        for i in chosen:
            box = np.rint(boxes[i] * [height, width, height, width]).astype(int).tolist()
            crops.append(
                pillow_crop(picture, box, bool(flips[i]), self._size, InterpolationMode.BILINEAR)
            )
        return crops, [torch.from_numpy(labels[i]) for i in chosen]


def join_crops(batch: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The batch as the training loop wants it: crops (B, 3, S, S) and labels (B, 2, K)."""
    return torch.cat(batch[0]), torch.cat(batch[1])


def pillow_crop(
    picture: Any, box: Sequence[int], flip: bool, size: int, how: InterpolationMode
) -> Tensor:
    """One crop, normalized float32 (3, size, size)."""
    top, left, height, width = box
    crop = transforms.resized_crop(picture, top, left, height, width, [size, size], how)
    if flip:
        crop = transforms.hflip(crop)
    pixels: Tensor = transforms.normalize(
        transforms.to_tensor(crop), list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    return pixels


def densify(labels: Tensor, num_classes: int) -> Tensor:
    """MS labels (B, 2, K) spread out to all classes, (B, C)."""
    index, value = labels[:, 0].long(), labels[:, 1]
    num_others = num_classes - index.shape[1]
    tail = (1.0 - value.sum(1, keepdim=True)) / num_others
    return tail.repeat(1, num_classes).scatter_(1, index, value)


def dot_product_loss(logits: Tensor, dense: Tensor) -> Tensor:
    """Mean soft cross-entropy as a batched dot product."""
    log_p = F.log_softmax(logits, dim=1)
    products: Tensor = torch.bmm(dense[:, None, :], log_p[:, :, None])
    return -products.mean()


class CropsOfImage(Dataset[Any]):
    """Items are all M crops of an image, float32 (M, 3, S, S), for the generator."""

    def __init__(self, images: Path, num_crops: int, size: int, how: InterpolationMode) -> None:
        self._images = ImageFolder(str(images))
        self._num_crops = num_crops
        self._size = size
        self._how = how

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, CropRecords, tuple[int, int]]:
        picture, _ = self._images[index]
        size = (picture.height, picture.width)
        numbers = np.arange(self._num_crops)
        records = sample_crops(CropConfig(), b"%d" % index, size, numbers)
        crops = [
            pillow_crop(picture, box, bool(flip), self._size, self._how)
            for box, flip in zip(records.box.tolist(), records.flip, strict=True)
        ]
        return torch.stack(crops), records, size


@torch.no_grad()
def generate(
    model: nn.Module,
    images: Sequence[tuple[Tensor, CropRecords, tuple[int, int]]] | Any,
    folder: Path,
    k: int,
    labeled: Callable[[int], None] = lambda number: None,
) -> None:
    """Label the crops of each image and write its file; `labeled` is told the crops done."""
    for number, (crops, records, size) in enumerate(images):
        logits = torch.cat([model(chunk) for chunk in crops.split(CHUNK)])
        probabilities = torch.softmax(logits, dim=1)
        value, index = probabilities.sort(dim=1, descending=True)
        file = folder / f"{number}.tar"
        save_labels(file, records, size, index[:, :k].numpy(), value[:, :k].numpy())
        labeled(len(crops))
