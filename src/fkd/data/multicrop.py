"""A label store and its images as an ordinary map-style data set, for any training loop.

store   = LabelStore.open("labels/pets")
dataset = MultiCropDataset(ImageFolder(root), store, crops_per_image=4)
loader  = DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=collate_crops)
for epoch in range(epochs // 4):        # one pass with m = 4 crops is worth 4 epochs
    dataset.set_epoch(epoch)            # the next 4 crops of every image
    for images, targets in loader:      # 64 images = 256 crops
        loss = SoftTargetLoss()(model(images), targets)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.crops.replay import Interpolation
from fkd.data.batches import Batch, CropCutter, CropFormat
from fkd.data.crop_sources import CropOrder, StoredCropSource
from fkd.data.decoders import DecoderChoice, choose_decoder
from fkd.data.joining import join_store
from fkd.data.sources import as_source
from fkd.labels.codecs import Codec
from fkd.labels.targets import SoftTargets
from fkd.store import LabelStore

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Item = tuple[Tensor, SoftTargets]


class MultiCropDataset(Dataset[Item]):
    """The images of a label store; an item is m crops of one image and their soft labels.

    Indices count the *labeled* images, in the order of their keys; images that could not be read
    when the store was made are left out. The ground-truth classes, as ids of the store (-1 where
    unknown), travel as `targets.labels`.

    Args:
        images: torchvision's ImageFolder, any map-style data set of pictures, or an ImageSource.
        store: the labels of exactly these images.
        crops_per_image: m; a pass over the data set is worth m epochs.
        size: side of the crops, pixels.
        interpolation: how crops are resized.
        mean, std: of the normalized RGB channels, for pixels in [0, 1].
        output: "float32" normalized, or "uint8" as they are (a quarter of the memory).
        seed: picks the order in which stored crops are used.
        order: every crop once per cycle, or an independent draw at every access.
        codec: how labels are decoded; by default as the store says. see also
            `with_temperature(store.codec, 2.0)`, `with_teacher_weights(store.codec, [1, 3])`.
        student_augment: drawn on top of each crop; the teacher did not see it.
        decoder: who decodes JPEGs, see `fkd.data.decoders.choose_decoder`.

    Raises:
        StoreMismatch: the images are not those of the store.
        ConfigError: m is larger than the store's crops per image.

    Items raise ImageError, CropMismatch (not the file that was labeled) and DamagedStore.
    """

    def __init__(
        self,
        images: Any,
        store: LabelStore,
        *,
        crops_per_image: int = 4,
        size: int = 224,
        interpolation: Interpolation = "bilinear",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        output: Literal["float32", "uint8"] = "float32",
        seed: int = 0,
        order: CropOrder = "epoch_permutation",
        codec: Codec | None = None,
        student_augment: AugmentConfig = NO_AUGMENT,
        decoder: DecoderChoice = "auto",
    ) -> None:
        source = as_source(images)
        join = join_store(source, store)
        views = StoredCropSource(
            source,
            store,
            join.rows,
            stride=crops_per_image,
            seed=seed,
            order=order,
            codec=codec,
        )
        self._cutter = CropCutter(
            source,
            views,
            [CropFormat(size, interpolation, augmented=True)],
            class_ids=join.class_ids,
            student_augment=student_augment,
            seed=seed,
            decoder=choose_decoder(source, decoder).decoder,
        )
        self._store = store
        self._labeled = join.labeled
        self._crops_per_image = crops_per_image
        self._output = output
        self._mean, self._std = tuple(mean), tuple(std)
        # Worker processes outlive a pass, so they must see the parent's later changes.
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._labeled)

    def __repr__(self) -> str:
        left_out = self._store.num_images - len(self)
        return (
            f"MultiCropDataset({len(self):,} images, {self._crops_per_image} of "
            f"{self._store.num_crops} crops each, {left_out} unreadable left out, {self._store!r})"
        )

    def set_epoch(self, epoch: int) -> None:
        """Say which pass over the data set comes next (0, 1, 2 ...)."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several items, whose labels are read in one go; called by torch's DataLoader."""
        images = self._labeled[list(indices)].tolist()
        m = self._crops_per_image
        batch = self._cutter.cut(images, start=int(self._epoch) * m, count=m)
        return [self._item(batch, slice(j * m, (j + 1) * m)) for j in range(len(images))]

    def _item(self, batch: Batch, rows: slice) -> Item:
        assert batch.targets is not None
        crops = batch.crops[0][rows]
        if self._output == "float32":
            crops = _normalize(crops, self._mean, self._std)
        return crops, batch.targets[rows]


def collate_crops(items: Sequence[Item]) -> Item:
    """One batch of items: crops (B * m, 3, S, S), image after image, and their targets."""
    crops, targets = zip(*items, strict=True)
    return torch.cat(crops), _cat(targets)


def _cat(parts: Sequence[SoftTargets]) -> SoftTargets:
    first = parts[0]
    return replace(
        first,
        index=None if first.index is None else torch.cat([p.index for p in parts]),  # type: ignore[misc]
        weight=torch.cat([p.weight for p in parts]),
        tail=torch.cat([p.tail for p in parts]),
        labels=None if first.labels is None else torch.cat([p.labels for p in parts]),  # type: ignore[misc]
    )


def _normalize(crops: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std, float32."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std])[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])[:, None, None]
    return torch.addcmul(shift, crops.float(), scale)
