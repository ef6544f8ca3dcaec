"""How many crops a second a loader delivers, without anybody training on them.

    ours        images and store to uint8 batches, as training gets them (`load_batches`); each of
                the m crops of an image with its own box and soft label
    torchvision the plain loader of everybody, one crop an image, normalized float32, no soft labels
    timm        the same by timm
    official    the structure of the authors' FKD, m crops an image with stored boxes and labels

"One process" is one thread on all sides. With workers every side has its two: processes of torch's
DataLoader for the peers, and what `fkd train` takes for ours (threads); the decoder is that of
`fkd train` too. Batches are counted in the steady state. Ours is normalized on the device of the
student, which the training rows count.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from benchmarks import official, plain
from benchmarks.harness import Side, Stream, alternate, compare, torch_threads
from benchmarks.photographs import file_sizes
from benchmarks.rows import Goal, Row, per_second
from benchmarks.workbench import Workbench
from fkd.crops.replay import InputSpec
from fkd.data import ImagesConfig
from fkd.data.batches import Batch, CropCutter, load_batches
from fkd.data.crop_sources import CropRequest, StoredCropSource
from fkd.data.decoders import choose_decoder
from fkd.data.joining import join_store
from fkd.training.config import StudentConfig, TrainConfig, kind_of_workers

_AHEAD = 2  # batches that a worker of torch's DataLoader prepares
_UNIT = "crops / s"
_TORCHVISION, _OFFICIAL = "torchvision, m = 1", "official FKD, same m"


def measure(bench: Workbench) -> list[Row]:
    """One process, then two workers."""
    return _one_process(bench) + _two_workers(bench)


def _one_process(bench: Workbench) -> list[Row]:
    with torch_threads(1), ExitStack() as stack:
        sides = {
            "torchvision": _side(bench, stack, torchvision_stream(bench, 0)),
            "timm": _side(bench, stack, _timm_stream(bench)),
            "official m=4": _side(bench, stack, official_stream(bench, 4, 0)),
        }
        for m in (1, 4, 8):
            sides[f"ours m={m}"] = _side(bench, stack, our_stream(bench, m, 0))
        costs = alternate(sides, bench.scale.repeats)
    line = partial(_row, bench, costs, "one process")
    return [
        line(1, "torchvision", _TORCHVISION, None),
        line(4, "torchvision", _TORCHVISION, 4.0),
        line(8, "torchvision", _TORCHVISION, 5.5),
        line(4, "official m=4", _OFFICIAL, 2.8),
        line(4, "timm", "timm create_loader, m = 1", None),
    ]


def _two_workers(bench: Workbench) -> list[Row]:
    with torch_threads(1), ExitStack() as stack:
        sides = {
            "torchvision": _side(bench, stack, torchvision_stream(bench, 2)),
            "official m=4": _side(bench, stack, official_stream(bench, 4, 2)),
            "ours m=4": _side(bench, stack, our_stream(bench, 4, 2)),
        }
        costs = alternate(sides, bench.scale.repeats)
    line = partial(_row, bench, costs, "two workers")
    return [
        line(4, "torchvision", _TORCHVISION, 3.5),
        line(4, "official m=4", _OFFICIAL, None),
    ]


def _row(
    bench: Workbench,
    costs: dict[str, list[float]],
    how: str,
    m: int,
    peer: str,
    against: str,
    goal: float | None,
) -> Row:
    sizes = list(file_sizes(bench.source))
    return Row.of(
        f"loader, {how}, m = {m}",
        compare(costs[f"ours m={m}"], costs[peer]),
        against=against,
        unit=_UNIT,
        show=per_second,
        goal=None if goal is None else Goal.times(goal),
        notes={
            "images": len(sizes),
            "mean_file_bytes": round(sum(sizes) / len(sizes)),
            "decoder": str(choose_decoder(bench.source)),
        },
    )


def _side(bench: Workbench, stack: ExitStack, stream: Stream[Any]) -> Side:
    stack.callback(stream.close)
    return partial(stream.seconds_per_unit, bench.scale.loader_batches)


def our_stream(bench: Workbench, m: int, num_workers: int, bursts: bool = False) -> Stream[Batch]:
    """Our training loader on the photographs, `batch_size` crops a batch.

    In `bursts` beside a student on the same cores, as `fkd train` does; alone it works ahead.
    """
    source, store = bench.source, bench.photograph_labels
    join = join_store(source, store)
    views = StoredCropSource(source, store, crops_per_image=m)
    fmt = InputSpec(bench.scale.crop_size, "bilinear")
    decoder = choose_decoder(source).decoder
    cutter = CropCutter(source, views, [fmt], class_ids=join.class_ids, decoder=decoder)
    batches = cutter_batches(bench, cutter, m, num_workers, bursts)
    return Stream(batches, len, ahead=_AHEAD * num_workers)


def cutter_batches(
    bench: Workbench, cutter: CropCutter, m: int, num_workers: int, bursts: bool
) -> Iterator[Batch]:
    """Batches without end from the loader of `fkd train`, with the kind of workers it takes."""
    return load_batches(
        cutter,
        endless_requests(len(bench.source), bench.scale.batch_size, m),
        num_workers=num_workers,
        pin_memory=False,
        workers=kind_of_workers(training_settings(num_workers)),
        bursts=bursts,
    )


def training_settings(num_workers: int | None = None) -> TrainConfig:
    """What `fkd train` does on a CPU unless the user says otherwise."""
    return TrainConfig(
        out="any",
        images=ImagesConfig(root="any"),
        student=StudentConfig(name="any"),
        store="any",
        device="cpu",
        num_workers=num_workers,
    )


def endless_requests(num_images: int, batch_size: int, m: int) -> Iterator[list[CropRequest]]:
    """Pass after pass over the images in random order, the next m crops of each in every pass."""
    draw, per_batch = np.random.default_rng(0), max(1, batch_size // m)
    pending: list[CropRequest] = []
    for number in count():
        order = draw.permutation(num_images).tolist()
        # Requests of one batch share their position, so a rest that is too small is left out.
        pending = [CropRequest(i, number * m, m) for i in order]
        for first in range(0, max(1, num_images - per_batch + 1), per_batch):
            yield pending[first : first + per_batch]


def torchvision_stream(bench: Workbench, num_workers: int) -> Stream[Any]:
    """The plain loader."""
    scale = bench.scale
    batches = plain.torchvision_batches(
        bench.photographs, scale.crop_size, scale.batch_size, num_workers
    )
    return Stream(batches, _crops_of, ahead=_AHEAD * num_workers)


def _timm_stream(bench: Workbench) -> Stream[Any]:
    scale = bench.scale
    size = min(scale.batch_size, scale.photographs)  # a loader in training drops a smaller rest
    return Stream(plain.timm_batches(bench.photographs, scale.crop_size, size), _crops_of)


def official_stream(bench: Workbench, m: int, num_workers: int) -> Stream[Any]:
    """The official structure on the same images and labels."""
    scale = bench.scale
    dataset = official.OfficialDataset(
        bench.photographs, bench.official_photograph_labels, m, scale.crop_size
    )
    loaded = plain.endless(dataset, max(1, scale.batch_size // m), num_workers)
    return Stream(
        (official.join_crops(batch) for batch in loaded), _crops_of, ahead=_AHEAD * num_workers
    )


def _crops_of(batch: Any) -> int:
    return len(batch[0])
