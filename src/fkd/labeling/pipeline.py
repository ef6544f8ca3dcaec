"""From image files to labeled batches of crops, a stream in which every stage works ahead.

    images --decode, draw records--> cut into batches --replay--> teacher --encode--> labels
      |         (threads)            (inside a shard)  (threads)  (threads)              |
      `-- one shard after another, in order ----------------------------------> assemble: shard

Batches never cross a shard, and the last one of a shard is padded: the output of a network depends
in its last bits on the size of its batch, and a shard must not depend on the process that computes
it, nor on what was computed before. Only a few images and batches are in memory at any time.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fkd.crops.records import CropRecords
from fkd.crops.replay import InputSpec, Interpolation, replay
from fkd.data.ahead import look_ahead

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Parallelism:
    """How much work is done side by side.

    Attributes:
        batch_size: crops in a forward pass.
        passes: forward passes at a time.
        workers: threads that decode and crop.
    """

    batch_size: int = 16
    passes: int = 1
    workers: int = 2


@dataclass(frozen=True)
class ImageRow:
    """What a shard keeps of one image besides its labels.

    Attributes:
        key: its identity.
        name: what messages call it.
        crc32: checksum of its file.
        num_bytes: length of its file.
        size: height and width after decoding.
        records: its crops (M,), or None where it cannot be read.
        reason: why it cannot be read.
        draws: random numbers of its labels, float64 (M,); None where the codec needs none.
    """

    key: bytes
    name: str
    crc32: int = 0
    num_bytes: int = 0
    size: tuple[int, int] = (0, 0)
    records: CropRecords | None = None
    reason: str = ""
    draws: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedImage:
    """An image of a shard, decoded, and the crops to be cut from it."""

    shard: int
    row: ImageRow
    pixels: Tensor | None


@dataclass(frozen=True)
class Piece:
    """Neighboring crops of one image: numbers `first` to `stop` - 1."""

    image: PreparedImage
    first: int
    stop: int


@dataclass(frozen=True)
class CropBatch:
    """Crops that go through the teacher together, in order; all of one shard.

    Attributes:
        shard: its number.
        pieces: where the crops come from; their numbers sum to at most the batch size.
        starting: rows of the images that begin with this batch, unreadable ones included.
    """

    shard: int
    pieces: list[Piece]
    starting: list[ImageRow]

    def __len__(self) -> int:
        return sum(piece.stop - piece.first for piece in self.pieces)


@dataclass(frozen=True)
class TeacherInput:
    """A batch without its decoded images: the crops as each view of the teachers wants them.

    Attributes:
        shard: its number.
        starting: rows of the images that begin with this batch.
        views: uint8 (batch size, 3, S, S) per view; rows beyond the crops are zero.
        crops: (name of the image, crop number) of every crop.
        draws: random number of the label of every crop, float64; None where none are needed.
    """

    shard: int
    starting: list[ImageRow]
    views: list[Tensor]
    crops: list[tuple[str, int]]
    draws: np.ndarray | None = None


def run_stages(
    items: Iterable[T],
    prepare: Callable[[T], PreparedImage],
    views: Sequence[InputSpec],
    teach: Callable[[TeacherInput], R],
    parallelism: Parallelism,
) -> Generator[R, None, None]:
    """What `teach` makes of each batch of crops, in order; all stages work at the same time.

    Args:
        items: stand for images, shard after shard.
        prepare: decodes one and says which crops to cut; called from many threads.
        views: side and interpolation of every teacher input.
        teach: called from `parallelism.passes` threads.
        parallelism: sizes of batches and of the look-ahead.
    """
    crop = partial(replay_batch, views=views, batch_size=parallelism.batch_size)
    with (
        ThreadPoolExecutor(parallelism.workers) as helpers,
        ThreadPoolExecutor(parallelism.passes) as teachers,
    ):
        images = look_ahead(helpers, prepare, items, 2 * parallelism.workers)
        inputs = look_ahead(
            helpers,
            crop,
            cut_batches(images, parallelism.batch_size),
            parallelism.workers + parallelism.passes,
        )
        yield from look_ahead(teachers, teach, inputs, parallelism.passes)


def cut_batches(images: Iterable[PreparedImage], batch_size: int) -> Iterator[CropBatch]:
    """Cut the crops of all images, one after the other, into batches that end with their shard."""
    for shard, members in groupby(images, key=lambda image: image.shard):
        yield from _cut_shard(shard, members, batch_size)


def _cut_shard(shard: int, images: Iterable[PreparedImage], batch_size: int) -> Iterator[CropBatch]:
    batch = CropBatch(shard, [], [])
    for image in images:
        batch.starting.append(image.row)
        first, num_crops = 0, 0 if image.row.records is None else len(image.row.records)
        while first < num_crops:
            stop = min(num_crops, first + batch_size - len(batch))
            batch.pieces.append(Piece(image, first, stop))
            first = stop
            if len(batch) == batch_size:
                yield batch
                batch = CropBatch(shard, [], [])
    if batch.starting or batch.pieces:
        yield batch


def replay_batch(batch: CropBatch, views: Sequence[InputSpec], batch_size: int) -> TeacherInput:
    """The crops of a batch, once for each view; the images are not kept."""
    return TeacherInput(
        batch.shard,
        batch.starting,
        [_replay_view(batch, view, batch_size) for view in views] if batch.pieces else [],
        [
            (piece.image.row.name, number)
            for piece in batch.pieces
            for number in range(piece.first, piece.stop)
        ],
        _join_draws(batch),
    )


def _join_draws(batch: CropBatch) -> np.ndarray | None:
    """The random numbers of the labels of all crops of a batch, if it has such."""
    parts = [
        piece.image.row.draws[piece.first : piece.stop]
        for piece in batch.pieces
        if piece.image.row.draws is not None
    ]
    return np.concatenate(parts) if parts else None


def _replay_view(batch: CropBatch, view: InputSpec, batch_size: int) -> Tensor:
    size, interpolation, _ = view
    parts = [_replay_piece(piece, size, interpolation) for piece in batch.pieces]
    missing = batch_size - len(batch)
    if missing:
        padding = torch.zeros((missing, 3, size, size), dtype=torch.uint8)
        parts.append(padding.contiguous(memory_format=torch.channels_last))
    return parts[0] if len(parts) == 1 else torch.cat(parts)  # mostly one: no copy


def _replay_piece(piece: Piece, size: int, interpolation: Interpolation) -> Tensor:
    assert piece.image.pixels is not None
    assert piece.image.row.records is not None
    records = piece.image.row.records[piece.first : piece.stop]
    return replay(piece.image.pixels, records, size, interpolation)
