"""A label store and its images as an ordinary map-style data set, for any training loop."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from fkd.checks import require_colors, require_one_of, require_whole
from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.crops.replay import InputSpec, Interpolation
from fkd.data.batches import CropCutter
from fkd.data.crop_sources import CropOrder, StoredCropSource
from fkd.data.decoders import DecoderChoice, choose_decoder
from fkd.data.joining import join_store
from fkd.data.sources import as_source
from fkd.data.subset import labeled_part
from fkd.errors import ConfigError
from fkd.labels.codec_names import parse_codec
from fkd.labels.codecs import Codec
from fkd.labels.embeddings import Embeddings
from fkd.labels.targets import SoftTargets
from fkd.store import LabelStore
from fkd.userfiles import home_path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Item = tuple[Tensor, SoftTargets | Embeddings]
Output = Literal["float32", "uint8"]

_WHOLE = {"crops_per_image": 1, "size": 1, "seed": None, "epoch": 0}  # and the least of each
_CHOICES = {
    "interpolation": Interpolation,
    "output": Output,
    "order": CropOrder,
    "decoder": DecoderChoice,
}


class MultiCropDataset(Dataset[Item]):
    """The images of a label store; an item is m crops of one image and their soft labels.

    An item has crops (m, 3, S, S), float32 or uint8, and SoftTargets of the m crops, whose `labels`
    are the true classes as ids of the store (-1 where unknown). From a store of embeddings it has
    Embeddings in their place, with no class known. Indices count the *labeled*
    images, in the order of their keys; images that could not be read when the store was made are
    left out. `collate_crops` makes batches of items.

    Which m of the M stored crops an item has depends on the epoch: call `set_epoch` before every
    pass over the data, with 0, 1, 2 ...; M / m such passes use every stored crop once. Without it,
    every pass has the same m crops; when an image is read again before `set_epoch` is called, the
    data set warns, once. With worker processes, the first of them warns, on standard error.

    Args:
        images: torchvision's ImageFolder, any map-style data set of images, an ImageSource, or the
            path of a folder of images or of a Parquet file.
        store: the labels of these images, or the path of the store. A store that is open may be
            partial (`LabelStore.open(path, partial=True)`); images of shards that are not there are
            left out.
        crops_per_image: m; a pass over the data set is worth m epochs.
        size: S, side of the crops, pixels.
        interpolation: how crops are resized.
        mean, std: of the normalized RGB channels, for pixels in [0, 1].
        output: "float32" normalized, or "uint8" as they are (a quarter of the memory).
        seed: picks the order in which stored crops are used.
        order: every crop once per cycle, or an independent draw at every access.
        codec: how labels are decoded, or its spelling; by default as the store says. One that needs
            more than is stored is refused, see `fkd.labels.codec_names.can_read`. See also
            `with_temperature(store.codec, 2.0)`, `with_teacher_weights(store.codec, [1, 3])`.
        student_augment: drawn on top of each crop; the teacher did not see it.
        decoder: decodes JPEGs, see `fkd.data.decoders.choose_decoder`.
        allow_missing_images: use the images that are there where others of the store are not, and
            warn of how many; images of `ImagesConfig(..., subset=FILE)` may be fewer anyway.

    Raises:
        StoreMismatch: the images are not those of the store.
        ConfigError: m is larger than the store's crops per image, or not a whole number from 1;
            another setting is none of its choices; or no image has labels.

    Items raise ImageError, CropMismatch (not the file that was labeled) and DamagedStore.

    Example:
        >>> from fkd import LabelStore, MultiCropDataset, collate_crops
        >>> from torch.utils.data import DataLoader
        >>> from torchvision.datasets import ImageFolder
        >>> store = LabelStore.open("labels")  # 6 crops of each of 15 images
        >>> dataset = MultiCropDataset(ImageFolder("photos"), store, crops_per_image=2, size=32)
        >>> loader = DataLoader(dataset, batch_size=5, shuffle=True, collate_fn=collate_crops)
        >>> for epoch in range(3):
        ...     dataset.set_epoch(epoch)  # the next 2 crops of every image
        ...     for crops, targets in loader:
        ...         pass  # loss = SoftTargetLoss()(model(crops), targets)
        >>> crops.shape, targets
        (torch.Size([10, 3, 32, 32]), SoftTargets(crops=10, classes=4, kept=2))
    """

    def __init__(
        self,
        images: Any,
        store: LabelStore | str | os.PathLike[str],
        *,
        crops_per_image: int = 4,
        size: int = 224,
        interpolation: Interpolation = "bilinear",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        output: Output = "float32",
        seed: int = 0,
        order: CropOrder = "epoch_permutation",
        codec: Codec | str | None = None,
        student_augment: AugmentConfig = NO_AUGMENT,
        decoder: DecoderChoice = "auto",
        allow_missing_images: bool = False,
    ) -> None:
        _check(
            crops_per_image=crops_per_image,
            size=size,
            seed=seed,
            interpolation=interpolation,
            output=output,
            order=order,
            decoder=decoder,
            mean=mean,
            std=std,
            student_augment=student_augment,
        )
        codec = parse_codec(codec) if isinstance(codec, str) else codec
        store = store if isinstance(store, LabelStore) else LabelStore.open(_as_path(store))
        source = labeled_part(as_source(images), store)
        join = join_store(source, store, allow_missing=allow_missing_images)
        for remark in join.remarks:
            warnings.warn(remark, stacklevel=2)
        if len(join.labeled) == 0:
            raise ConfigError(f"store: no image of {store.path} was readable; label other images")
        crop_source = StoredCropSource(
            source,
            store,
            crops_per_image=crops_per_image,
            seed=seed,
            order=order,
            codec=codec,
            rows=join.rows,
        )
        self._cutter = CropCutter(
            source,
            crop_source,
            [InputSpec(size, interpolation, augmented=True)],
            class_ids=join.class_ids,
            student_augment=student_augment,
            seed=seed,
            decoder=choose_decoder(source, decoder).decoder,
        )
        self._store = store
        self._labeled = join.labeled
        self._num_unreadable = len(join.rows) - len(join.labeled)
        self._crops_per_image = crops_per_image
        self._output = output
        self._mean, self._std = tuple(map(float, mean)), tuple(map(float, std))
        # In shared memory, because worker processes may outlive an epoch.
        self._epoch = _shared_zeros((), torch.int64)
        self._was_read = _shared_zeros((len(join.labeled),), torch.bool)  # since set_epoch
        self._has_warned = _shared_zeros((), torch.bool)

    def __len__(self) -> int:
        return len(self._labeled)

    def __repr__(self) -> str:
        return (
            f"MultiCropDataset({len(self):,} images, {self._crops_per_image} of "
            f"{self._store.num_crops} crops each, {self._num_unreadable} unreadable left out, "
            f"{self._store!r})"
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops of the next pass over the data set, which is number 0, 1, 2 ...

        Raises:
            ConfigError: it is not such a number.
        """
        _check(epoch=epoch)
        self._epoch.fill_(epoch)
        self._was_read.zero_()

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several items, whose labels are read in one go; called by torch's DataLoader."""
        self._warn_of_repeats(list(indices))
        images = self._labeled[list(indices)].tolist()
        m = self._crops_per_image
        batch = self._cutter.cut(images, start=int(self._epoch) * m, crops_per_image=m)
        assert batch.targets is not None  # crops are stored ones
        crops = batch.crops[0]
        if self._output == "float32":
            crops = _normalize(crops, self._mean, self._std)
        items = [slice(j * m, (j + 1) * m) for j in range(len(images))]
        return [(crops[item], batch.targets[item]) for item in items]

    def _warn_of_repeats(self, indices: list[int]) -> None:
        """Warn once in all processes if an image is read again in the same epoch.

        In a repeated pass every worker reads images again, so that the first one, worker 0, can
        warn for all; if all did, two of them could do so at the same time.
        """
        repeated = bool(self._was_read[indices].any())
        self._was_read[indices] = True
        worker = get_worker_info()
        if repeated and not self._has_warned and (worker is None or worker.id == 0):
            self._has_warned.fill_(True)
            warnings.warn(
                f"an image was read again in epoch {int(self._epoch)}, with the same "
                f"{self._crops_per_image} of its {self._store.num_crops} stored crops; call "
                "dataset.set_epoch(epoch) before every pass over the data (nothing is wrong where "
                "a sampler repeats images within an epoch)",
                stacklevel=3,
            )


def collate_crops(items: Sequence[Item]) -> Item:
    """One batch of B items with m crops each: crops (B * m, 3, S, S), image after image, and their
    soft targets, or embeddings.

    Example:
        >>> from fkd import LabelStore, MultiCropDataset, collate_crops
        >>> from torchvision.datasets import ImageFolder
        >>> dataset = MultiCropDataset(
        ...     ImageFolder("photos"), LabelStore.open("labels"), crops_per_image=2, size=32
        ... )
        >>> crops, targets = collate_crops([dataset[0], dataset[7], dataset[14]])
        >>> crops.shape, targets.labels
        (torch.Size([6, 3, 32, 32]), tensor([0, 0, 1, 1, 2, 2]))
    """
    crops, targets = zip(*items, strict=True)
    tensors = {
        field.name: torch.cat([getattr(part, field.name) for part in targets])
        for field in fields(targets[0])
        if isinstance(getattr(targets[0], field.name), Tensor)
    }
    return torch.cat(crops), replace(targets[0], **tensors)


def _check(**settings: Any) -> None:
    """Refuse settings that cannot be; a wrong one would show as other crops, if at all.

    Raises:
        ConfigError: names the setting and the value.
    """
    for name, value in settings.items():
        if value is None:
            raise ConfigError(f"{name} is None; leave it out for its default")
        if name in _WHOLE:
            require_whole(_WHOLE[name], name, value)
        elif name in _CHOICES:
            require_one_of(_CHOICES[name], name, value)
        elif name == "student_augment" and not isinstance(value, AugmentConfig):
            raise ConfigError(f"student_augment must be an AugmentConfig, got {value!r}")
    require_colors("", settings.get("mean"), settings.get("std"))


def _as_path(store: Any) -> Path:
    if not isinstance(store, str | os.PathLike):
        raise ConfigError(f"store: give a LabelStore or the path of one, got {store!r}")
    return home_path(store)


def _shared_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in memory that is shared with worker processes."""
    return torch.zeros(shape, dtype=dtype).share_memory_()  # type: ignore[no-any-return, no-untyped-call]


def _normalize(crops: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std of uint8 crops (n, 3, S, S), float32."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std])[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])[:, None, None]
    return torch.addcmul(shift, crops.float(), scale)
