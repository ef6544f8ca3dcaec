"""The other sides of the comparisons: plain loaders, and the official FKD structure.

    torchvision   ImageFolder, RandomResizedCrop, flip, ToTensor, Normalize, DataLoader
    timm          create_loader on the same folder, its defaults without further augmentation
    official      what the paper's authors' code does, step by step, in our own words:
        labels      one torch.save file per image: [boxes, flips, labels] of all M crops
        loader      read the image and the file, draw m of M, then per crop: crop and resize with
                    Pillow, flip, ToTensor, Normalize; a batch is put together crop by crop
        loss        labels spread out to all C classes, then a batched dot product
        generator   per image: M crops through Pillow, forward passes of 50, sort, torch.save

All loaders give normalized float32 crops. Source of the official structure: a reading of
github.com/szq0214/FKD for layout and order; no code is taken.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transform

from fkd.crops.records import CropRecords
from fkd.crops.replay import sample_crops
from fkd.crops.sampling import CropConfig
from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD
from fkd.store import LabelStore

_OFFICIAL_CHUNK = 50  # crops in a forward pass of the generator
OfficialLabels = list[np.ndarray]


class EndlessBatches:
    """Random batches of positions without end, so that workers never pause between epochs."""

    def __init__(self, num_images: int, batch_size: int) -> None:
        self._num_images = num_images
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        pending: list[int] = []
        while True:
            while len(pending) < self._batch_size:
                pending += torch.randperm(self._num_images).tolist()
            yield pending[: self._batch_size]
            del pending[: self._batch_size]


def endless(
    dataset: Dataset[Any], batch_size: int, num_workers: int, **options: Any
) -> Iterator[Any]:
    """Batches of a data set from torch's DataLoader, without end."""
    sampler = EndlessBatches(len(dataset), batch_size)  # type: ignore[arg-type]
    yield from DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, **options)


def torchvision_batches(
    images: Path, size: int, batch_size: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops float32 (B, 3, size, size) and class ids (B,), one crop per image."""
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return endless(ImageFolder(str(images), pipeline), batch_size, num_workers)


def timm_batches(images: Path, size: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same from timm, in this process; without its prefetcher, which needs a GPU."""
    from timm.data import create_loader  # type: ignore[attr-defined]

    loader = create_loader(
        ImageFolder(str(images)),  # its own data set leaves files open
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=False,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=0,
        persistent_workers=False,
    )
    while True:
        yield from loader


def official_batches(
    images: Path, labels: Path, m: int, size: int, batch_size: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops float32 (B, 3, size, size) and labels (B, 2, K), m crops per image."""
    dataset = OfficialDataset(images, labels, m, size)
    for crops, found in endless(dataset, max(1, batch_size // m), num_workers):
        yield torch.cat(crops), torch.cat(found)


def official_file(folder: Path, key: bytes) -> Path:
    """Where the labels of an image lie: its name with .tar, though it is no archive."""
    return (folder / key.decode()).with_suffix(".tar")


def write_official_labels(folder: Path, store: LabelStore) -> Path:
    """The content of a store (of a codec with ids and values) in the official layout."""
    for key in store:
        entry = store[key]
        assert entry.label.ids is not None
        assert entry.label.values is not None
        file = official_file(folder, key)
        _save_labels(file, entry.records, entry.size, entry.label.ids, entry.label.values)
    return folder


def _save_labels(
    file: Path, records: CropRecords, size: tuple[int, int], ids: np.ndarray, values: np.ndarray
) -> None:
    """One file: boxes float32 (M, 4) as fractions, flips (M,), ids and values float32 (M, 2, K)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    boxes = (records.box / [*size, *size]).astype(np.float32)
    torch.save([boxes, records.flip, np.stack([ids, values], axis=1).astype(np.float32)], file)


def read_official_labels(file: Path) -> OfficialLabels:
    """Boxes, flips and labels of all crops of an image."""
    labels: OfficialLabels = torch.load(file, weights_only=False)
    return labels


class OfficialDataset(Dataset[Any]):
    """Items are m crops, float32 (3, S, S) each, and their labels (2, K) each."""

    def __init__(self, images: Path, labels: Path, crops_per_image: int, size: int) -> None:
        self._images = ImageFolder(str(images))
        self._files = [
            official_file(labels, Path(path).relative_to(images).as_posix().encode())
            for path, _ in self._images.samples
        ]
        self._m = crops_per_image
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[list[Tensor], list[Tensor]]:
        image, _ = self._images[index]
        boxes, flips, labels = read_official_labels(self._files[index])
        scale = [image.height, image.width, image.height, image.width]
        chosen = torch.randperm(len(flips))[: self._m].tolist()
        crops = []
        for i in chosen:
            box = np.rint(boxes[i] * scale).astype(int).tolist()
            crops.append(
                _pillow_crop(image, box, bool(flips[i]), self._size, InterpolationMode.BILINEAR)
            )
        return crops, [torch.from_numpy(labels[i]) for i in chosen]


def _pillow_crop(
    image: Any, box: Sequence[int], flip: bool, size: int, interpolation: InterpolationMode
) -> Tensor:
    """One crop, normalized float32 (3, size, size)."""
    top, left, height, width = box
    crop = transform.resized_crop(image, top, left, height, width, [size, size], interpolation)
    if flip:
        crop = transform.hflip(crop)
    pixels: Tensor = transform.normalize(
        transform.to_tensor(crop), list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    return pixels


def densify(labels: Tensor, num_classes: int) -> Tensor:
    """MS labels (B, 2, K) spread out to all classes, (B, C)."""
    ids, values = labels[:, 0].long(), labels[:, 1]
    tail = (1.0 - values.sum(1, keepdim=True)) / (num_classes - ids.shape[1])
    return tail.repeat(1, num_classes).scatter_(1, ids, values)


def official_loss(logits: Tensor, dense: Tensor) -> Tensor:
    """Mean soft cross-entropy as a batched dot product."""
    log_probs = F.log_softmax(logits, dim=1)
    products: Tensor = torch.bmm(dense[:, None, :], log_probs[:, :, None])
    return -products.mean()


class CropsOfImage(Dataset[Any]):
    """Items are all M crops of an image, float32 (M, 3, S, S), for the generator."""

    def __init__(
        self, images: Path, num_crops: int, size: int, interpolation: InterpolationMode
    ) -> None:
        self._images = ImageFolder(str(images))
        self._num_crops = num_crops
        self._size = size
        self._interpolation = interpolation

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, CropRecords, tuple[int, int]]:
        image, _ = self._images[index]
        size = (image.height, image.width)
        numbers = np.arange(self._num_crops)
        records = sample_crops(CropConfig(), b"%d" % index, size, numbers)
        crops = [
            _pillow_crop(image, box, bool(flip), self._size, self._interpolation)
            for box, flip in zip(records.box.tolist(), records.flip, strict=True)
        ]
        return torch.stack(crops), records, size


@torch.no_grad()
def official_generate(
    network: Callable[[Tensor], Tensor] | nn.Module,
    images: Iterable[tuple[Tensor, CropRecords, tuple[int, int]]],
    folder: Path,
    k: int,
) -> None:
    """Label the crops of each image and write its file."""
    for number, (crops, records, size) in enumerate(images):
        logits = torch.cat([network(chunk) for chunk in crops.split(_OFFICIAL_CHUNK)])
        values, ids = torch.softmax(logits, dim=1).sort(dim=1, descending=True)
        file = folder / f"{number}.tar"
        _save_labels(file, records, size, ids[:, :k].numpy(), values[:, :k].numpy())
