"""A mini-batch from images on disk: each image is decoded once, m crops are cut for each network.

The loader is driven by *crop requests* (image, position, number of crops) that are complete by
themselves; workers therefore hold no epoch, no counter and no random state, and any of them may
build any batch. Crops stay uint8 until they reach the device: a quarter of the bytes between
processes.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat, takewhile
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from fkd.crops.augment import NO_AUGMENT, AugmentConfig, apply_augment, sample_augment
from fkd.crops.replay import InputSpec, replay
from fkd.data.ahead import in_bursts, look_ahead, single_threaded_pool
from fkd.data.class_sets import is_multi_label, known_labels, padded
from fkd.data.crop_sources import CropRequest, CropSource
from fkd.data.decode import Decoder
from fkd.data.mixing import Mix, mix_crops, mix_labels
from fkd.data.sources import ImageSource, load
from fkd.data.workers import in_worker, worker_processes
from fkd.labels.embeddings import Embeddings
from fkd.labels.targets import SoftTargets
from fkd.randomness import Purpose, stream_key

Workers = Literal["threads", "processes"]
_BATCHES_AHEAD = 2  # per worker, as torch's DataLoader has it


@dataclass(frozen=True)
class Batch:
    """Crops of B images, m of each, image after image.

    Attributes:
        crops: uint8 (B * m, 3, S, S), channels-last, one tensor per input spec.
        labels: true class of each crop before it was mixed, int64 (B * m,), -1 where
            unknown.
        targets: stored soft labels of the crops before they were mixed (with `labels` inside), or
            stored embeddings; None where there is no store.
        mix: how the crops were mixed; None where they were not.
        crops_per_image: m.
        classes: all true classes of each crop before it was mixed, padded with -1, int64
            (B * m, L), where images have several each; else None.
    """

    crops: tuple[Tensor, ...]
    labels: Tensor
    targets: SoftTargets | Embeddings | None
    mix: Mix | None = None
    crops_per_image: int = 1
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; does not wait for copies from pinned memory."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def mixed(self, mix: Mix) -> "Batch":
        """The batch with its crops mixed; labels stay those of the parts, for `label_mixed`."""
        return replace(self, crops=tuple(mix_crops(mix, crops) for crops in self.crops), mix=mix)

    def label_mixed(self, targets: SoftTargets) -> SoftTargets:
        """Labels of the mixed crops, from labels of the crops before they were mixed."""
        return targets if self.mix is None else mix_labels(self.mix, targets)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; called by torch's DataLoader."""
        return self._map(lambda part: part.pin_memory())

    def _map(self, function: Any) -> "Batch":
        return replace(
            self,
            crops=tuple(function(crops) for crops in self.crops),
            labels=function(self.labels),
            targets=None if self.targets is None else function(self.targets),
            classes=None if self.classes is None else function(self.classes),
        )


class CropCutter:
    """Builds batches from images, the source of their crops and the inputs of the networks.

    Args:
        images: the image files.
        crop_source: which crops.
        formats: the input of each network; the batch has them in this order.
        class_ids: the id of each class of the source, int64 (classes,), -1 for classes that the
            labels lack.
        student_augment: drawn for each access, on top of a crop, for formats that are `augmented`.
        seed: picks the student augmentation.
        decoder: decodes the images.
    """

    def __init__(
        self,
        images: ImageSource,
        crop_source: CropSource,
        formats: Sequence[InputSpec],
        *,
        class_ids: np.ndarray | None = None,
        student_augment: AugmentConfig = NO_AUGMENT,
        seed: int = 0,
        decoder: Decoder = "pillow",
    ) -> None:
        self.images = images
        self.formats = tuple(formats)
        self._crop_source = crop_source
        self._class_ids = class_ids
        self._student_augment = student_augment
        self._seed = seed
        self._decoder = decoder

    def cut(self, images: Sequence[int], start: int, crops_per_image: int) -> Batch:
        """The batch of m crops, from position `start` on, of each of B images.

        Raises:
            ImageError: a file cannot be read or decoded.
            CropMismatch: a file is not the one that was labeled.
            StoreError: a label is missing or damaged.
        """
        m = crops_per_image
        selected = self._crop_source.select(np.asarray(images, np.int64), start, m)
        crops = tuple(_empty(len(images) * m, fmt.size) for fmt in self.formats)
        for j, i in enumerate(images):
            loaded = load(self.images, i, self._decoder)
            records = selected.records(j, loaded)
            for tensor, fmt in zip(crops, self.formats, strict=True):
                out = tensor[j * m : (j + 1) * m]
                replay(loaded.image, records, fmt.size, fmt.interpolation, out)
                if fmt.augmented:
                    self._augment(out, i, start)
        labels = torch.tensor([self.label(i) for i in images]).repeat_interleave(m)
        targets = None if selected.targets is None else replace(selected.targets, labels=labels)
        return Batch(crops, labels, targets, None, m, self._all_classes(images, m))

    def _all_classes(self, images: Sequence[int], m: int) -> Tensor | None:
        """The classes of m crops of each image, where images have several."""
        if not is_multi_label(self.images):
            return None
        sets = [known_labels(self.images, i, self._class_ids) for i in images]
        return torch.from_numpy(padded(sets)).repeat_interleave(m, dim=0)

    def label(self, i: int) -> int:
        """The true class id of image `i`, -1 where unknown."""
        label = self.images.label(i)
        return label if self._class_ids is None or label < 0 else int(self._class_ids[label])

    def _augment(self, crops: Tensor, i: int, start: int) -> None:
        """Draw and apply the student augmentation of image `i`, in place."""
        numbers = np.arange(start, start + len(crops))
        stream = stream_key(self._seed, self.images.key(i))
        drawn = sample_augment(self._student_augment, stream, numbers, Purpose.STUDENT_AUGMENT)
        apply_augment(crops, drawn)


class Pinnable(Protocol):
    """A batch of any kind."""

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""


B = TypeVar("B", bound=Pinnable)
B_co = TypeVar("B_co", bound=Pinnable, covariant=True)


class Cutter(Protocol[B_co]):
    """Builds batches of any kind; `CropCutter` builds those of crops."""

    def cut(self, images: Sequence[int], start: int, crops_per_image: int) -> B_co:
        """The batch of images, from position `start` on."""


def load_batches(
    cutter: Cutter[B],
    requests: Iterable[Sequence[CropRequest]],
    *,
    num_workers: int,
    pin_memory: bool,
    workers: Workers = "processes",
    bursts: bool = False,
) -> Generator[B, None, None]:
    """The batch of each list of requests, in order; workers build them ahead.

    Close it, or its workers live on until it is garbage.

    Args:
        cutter: builds a batch.
        requests: of each batch; those of one list share `start` and `crops_per_image`.
        num_workers: threads or processes; 0 builds each batch when it is needed.
        pin_memory: put batches into page-locked memory, for fast copies to a GPU.
        workers: threads or processes; the batches are the same.
        bursts: threads build a batch each while the student waits, and pause while it trains.
            Faster where they share its cores: a core that is taken from one of the student's
            threads keeps all the others waiting (94 instead of 90 % of the bare step on 2 cores).

    Raises:
        FKDError: what `cut` raises, at the batch that it concerns.
    """
    build = partial(_build, cutter)
    if num_workers == 0:
        batches = map(build, requests)
        yield from (batch.pin_memory() for batch in batches) if pin_memory else batches
    elif workers == "threads":
        yield from _by_threads(build, requests, num_workers, pin_memory, bursts)
    else:
        yield from _by_processes(build, requests, num_workers, pin_memory)


def _build(cutter: Cutter[B], requests: Sequence[CropRequest]) -> B:
    first = requests[0]
    return cutter.cut([r.image for r in requests], first.start, first.crops_per_image)


def _by_threads(
    build: Callable[[Sequence[CropRequest]], B],
    requests: Iterable[Sequence[CropRequest]],
    num_workers: int,
    pin_memory: bool,
    bursts: bool,
) -> Iterator[B]:
    """Decoding and resizing release Python's lock, and batches are not copied between processes."""

    def build_pinned(batch_requests: Sequence[CropRequest]) -> B:
        batch = build(batch_requests)
        return batch.pin_memory() if pin_memory else batch

    with single_threaded_pool(num_workers) as pool:
        if bursts:
            yield from in_bursts(pool, build_pinned, requests, num_workers)
        else:
            yield from look_ahead(pool, build_pinned, requests, _BATCHES_AHEAD * num_workers)


def _by_processes(
    build: Callable[[Sequence[CropRequest]], B],
    requests: Iterable[Sequence[CropRequest]],
    num_workers: int,
    pin_memory: bool,
) -> Iterator[B]:
    with worker_processes(build, num_workers) as processes:
        batches = processes.results(requests, _BATCHES_AHEAD)
        yield from _pin_ahead(batches) if pin_memory else batches


def _pin_ahead(batches: Iterator[B]) -> Iterator[B]:
    """The same batches in page-locked memory, copied there by a thread."""

    def pull(_: None) -> B | None:
        batch = next(batches, None)
        return None if batch is None else batch.pin_memory()

    pool = ThreadPoolExecutor(1, thread_name_prefix="fkd-pin")
    try:
        pulled = look_ahead(pool, pull, repeat(None), ahead=1)
        yield from takewhile(lambda batch: batch is not None, pulled)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # it ends with the processes it waits for


def _empty(num_crops: int, size: int) -> Tensor:
    """Uninitialized crops (n, 3, S, S), channels-last; in a worker, in shared memory."""
    shape = (num_crops, size, size, 3)
    if not in_worker():
        return torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    num_bytes = int(np.prod(shape))
    storage = torch.empty(0, dtype=torch.uint8).untyped_storage()._new_shared(num_bytes)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape).permute(0, 3, 1, 2)
