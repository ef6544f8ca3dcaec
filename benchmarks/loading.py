"""How many crops a second a loader delivers, without a student that trains on them.

    ours        images and store to uint8 batches, as training gets them (`load_batches`); each of
                the m crops of an image with its own box and soft label
    torchvision the usual loader, one crop per image, normalized float32, no soft labels
    timm        the same by timm
    official    the structure of the authors' FKD, m crops per image with stored boxes and labels

"One process" is one thread on all sides. With workers every side has two: processes of torch's
DataLoader for the peers, and what `fkd train` takes for ours (threads); the decoder is that of
`fkd train` too. Batches are counted in the steady state. Ours is normalized on the device of the
student, which the training rows count.

The share of labels is the time that our loader spends in `LabelStore.read`, which compares each
record with its checksum, over all of its time, at m = 4 in one process. A read has a fixed cost, so
it is measured twice: with batches of 64 images, and with those of the other rows (16 images).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.harness import Side, Stream, alternate, torch_threads
from benchmarks.inputs import Inputs
from benchmarks.rows import Goal, Row, at_least, at_most, per_second
from fkd.crops.replay import InputSpec
from fkd.data.batches import Batch, CropCutter, load_batches
from fkd.data.crop_sources import CropRequest, StoredCropSource
from fkd.data.decoders import choose_decoder
from fkd.data.joining import join_store
from fkd.data.sources import ImageSource
from fkd.store import LabeledCrops, LabelStore

_M = 4
_IMAGES = 64  # in a batch, as in the rows of reading
_AHEAD = 2  # batches that a worker of torch's DataLoader prepares
_PEERS = {
    "torchvision": "torchvision, m = 1",
    "official": "official FKD, same m",
    "timm": "timm create_loader, m = 1",
}
Costs = dict[str, list[float]]


def measure_loader(inputs: Inputs) -> list[Row]:
    """One process, then two workers."""
    return _one_process(inputs) + _two_workers(inputs)


def _one_process(inputs: Inputs) -> list[Row]:
    streams: dict[str, Stream[Any]] = {
        "torchvision": torchvision_stream(inputs, 0),
        "timm": _timm_stream(inputs),
        "official": official_stream(inputs, 4, 0),
        "1": our_stream(inputs, 1, 0),
        "4": our_stream(inputs, 4, 0),
        "8": our_stream(inputs, 8, 0),
    }
    costs = measure_streams(inputs, streams)
    row = partial(_row, inputs, costs, "one process")
    small = inputs.scale.batch_size // _M
    return [
        row("1", "torchvision", None),
        row("4", "torchvision", at_least(4.0)),
        row("8", "torchvision", at_least(5.5)),
        row("4", "official", at_least(2.8)),
        row("4", "timm", None),
        _share_of_labels(inputs, small),
        _share_of_labels(inputs, min(_IMAGES, inputs.scale.photographs)),
    ]


def _share_of_labels(inputs: Inputs, num_images: int) -> Row:
    """Percent of the loader's time that reads labels, with batches of so many images."""
    store = LabelStore.open(inputs.photograph_labels.path)
    reads: list[float] = []
    store.read = _timed_reads(store.read, reads)  # type: ignore[method-assign]
    stream = our_stream(inputs, _M, 0, store, batch_size=num_images * _M)
    costs = measure_streams(inputs, {"ours": stream})["ours"]
    return Row.of(
        f"labels read and checked, share of the loader's time, m = {_M}, {num_images} images",
        [100.0 * cost / statistics.median(costs) for cost in reads],
        unit="%",
        goal=at_most(1.0),
    )


def _two_workers(inputs: Inputs) -> list[Row]:
    streams: dict[str, Stream[Any]] = {
        "torchvision": torchvision_stream(inputs, 2),
        "official": official_stream(inputs, 4, 2),
        "4": our_stream(inputs, 4, 2),
    }
    row = partial(_row, inputs, measure_streams(inputs, streams), "two workers")
    return [row("4", "torchvision", at_least(3.5)), row("4", "official", None)]


def _row(inputs: Inputs, costs: Costs, how: str, m: str, peer: str, goal: Goal | None) -> Row:
    source = inputs.source
    sizes = [len(source.read(i)) for i in range(len(source))]
    return Row.of(
        f"loader, {how}, m = {m}",
        costs[m],
        costs[peer],
        against=_PEERS[peer],
        unit="crops / s",
        show=per_second,
        goal=goal,
        notes={
            "images": len(sizes),
            "mean_file_bytes": round(sum(sizes) / len(sizes)),
            "decoder": str(choose_decoder(source)),
        },
    )


def measure_streams(inputs: Inputs, streams: dict[str, Stream[Any]]) -> Costs:
    """Seconds per crop of each stream, in turns, with one thread of torch; closes them."""
    with torch_threads(1), ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, stream in streams.items():
            stack.callback(stream.close)
            sides[name] = partial(stream.seconds_per_unit, inputs.scale.loader_batches)
        return alternate(sides, inputs.scale.repeats)


def _timed_reads(read: Callable[..., LabeledCrops], costs: list[float]) -> Any:
    """`LabelStore.read`, and the seconds per crop of each call in `costs`."""

    def timed_read(rows: np.ndarray, crops: np.ndarray) -> LabeledCrops:
        started = time.perf_counter()
        labels = read(rows, crops)
        costs.append((time.perf_counter() - started) / crops.size)
        return labels

    return timed_read


def our_stream(
    inputs: Inputs,
    m: int,
    num_workers: int,
    store: LabelStore | None = None,
    batch_size: int | None = None,
    source: ImageSource | None = None,
) -> Stream[Batch]:
    """The loader of `fkd train` on the photographs, by default `scale.batch_size` crops a batch."""
    source, store = source or inputs.source, store or inputs.photograph_labels
    join = join_store(source, store)
    batches = load_batches(
        CropCutter(
            source,
            StoredCropSource(source, store, crops_per_image=m),
            [InputSpec(inputs.scale.crop_size, "bilinear")],
            class_ids=join.class_ids,
            decoder=choose_decoder(source).decoder,
        ),
        _endless_requests(len(source), batch_size or inputs.scale.batch_size, m),
        num_workers=num_workers,
        pin_memory=False,
        workers="threads",
    )
    return Stream(batches, len, ahead=_AHEAD * num_workers)


def _endless_requests(num_images: int, batch_size: int, m: int) -> Iterator[list[CropRequest]]:
    """Pass after pass over the images in random order, the next m crops of each in every pass."""
    draw, per_batch = np.random.default_rng(0), max(1, batch_size // m)
    for number in count():
        requests = [CropRequest(i, number * m, m) for i in draw.permutation(num_images).tolist()]
        # Requests of one batch share their position, so a rest that is too small is left out.
        for first in range(0, max(1, num_images - per_batch + 1), per_batch):
            yield requests[first : first + per_batch]


def torchvision_stream(inputs: Inputs, num_workers: int) -> Stream[Any]:
    """The usual loader."""
    scale = inputs.scale
    batches = peers.torchvision_batches(
        inputs.photographs, scale.crop_size, scale.batch_size, num_workers
    )
    return Stream(batches, _num_crops, ahead=_AHEAD * num_workers)


def _timm_stream(inputs: Inputs) -> Stream[Any]:
    scale = inputs.scale
    size = min(scale.batch_size, scale.photographs)  # a loader in training drops a smaller rest
    return Stream(peers.timm_batches(inputs.photographs, scale.crop_size, size), _num_crops)


def official_stream(inputs: Inputs, m: int, num_workers: int) -> Stream[Any]:
    """The official structure on the same images and labels."""
    scale, labels = inputs.scale, inputs.official_photograph_labels
    batches = peers.official_batches(
        inputs.photographs, labels, m, scale.crop_size, scale.batch_size, num_workers
    )
    return Stream(batches, _num_crops, ahead=_AHEAD * num_workers)


def _num_crops(batch: Any) -> int:
    return len(batch[0])
