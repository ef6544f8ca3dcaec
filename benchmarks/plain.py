"""Plain loaders: what people use who train without a teacher.

    torchvision   ImageFolder, RandomResizedCrop, flip, ToTensor, Normalize, DataLoader
    timm          create_loader on the same folder, its defaults without further augmentation

Both give normalized float32 crops, as they do everywhere.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from fkd.data.multicrop import IMAGENET_MEAN, IMAGENET_STD


class EndlessBatches:
    """Random batches of positions for ever: one epoch without an end, so workers never pause."""

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


def endless(dataset: Dataset[Any], batch_size: int, num_workers: int) -> Iterator[Any]:
    """Batches of a data set from torch's DataLoader, without end."""
    sampler = EndlessBatches(len(dataset), batch_size)  # type: ignore[arg-type]
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)
    yield from loader


def torchvision_batches(
    images: Path, size: int, batch_size: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops float32 (B, 3, size, size) and class ids (B,), one crop an image."""
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
