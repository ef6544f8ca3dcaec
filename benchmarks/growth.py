"""How cost grows: with stored crops, with images, with crops per batch, with workers.

crops    M from 50 to 1,000     reading 4 crops of an image, ours and the official file, which
                                is loaded whole
images   1,000 to a million     opening a store, finding and reading random images in it; the
                                largest takes 700 MB of the temporary folder for a while
m        1 to 16                crops a second of the loader in one process, ours and official
workers  0 to 2                 crops a second of the loader at m = 4, ours and torchvision
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.harness import alternate, timed
from benchmarks.inputs import Inputs
from benchmarks.loading import measure_streams, official_stream, our_stream, torchvision_stream
from benchmarks.reading import BATCH, choose_crops, official_side, store_side
from benchmarks.rows import Row, microseconds, milliseconds, per_second
from benchmarks.stores import synthetic_images, write_store
from fkd.store import LabelStore

_CROPS_OF_MANY = 20  # stored per image where images are counted


def measure_growth(inputs: Inputs) -> list[Row]:
    """All four."""
    return [
        *grow_crops(inputs),
        *grow_images(inputs),
        *grow_m(inputs),
        *grow_workers(inputs),
    ]


def grow_crops(inputs: Inputs, numbers: Sequence[int] = (50, 100, 200, 500, 1000)) -> Iterator[Row]:
    """Reading, by crops stored per image."""
    for number in numbers:
        scale = replace(inputs.scale, images=2 * BATCH, crops=number)
        folder = inputs.folder / f"crops-{number}"
        folder.mkdir()
        smaller = Inputs(folder, scale)
        rows, crops = choose_crops(smaller.labels, scale.read_batches)
        sides = {
            "ours": store_side(smaller.labels, rows, crops),
            "official": official_side(smaller.official_labels, smaller.labels, rows, crops),
        }
        costs = alternate(sides, scale.cheap_repeats)
        shutil.rmtree(folder)
        yield Row.of(
            f"read labels, M = {number:,} stored",
            costs["ours"],
            costs["official"],
            against="torch.load of the official file",
            unit="us / image",
            show=microseconds,
        )


def grow_images(
    inputs: Inputs, numbers: Sequence[int] = (1000, 10_000, 100_000, 1_000_000)
) -> Iterator[Row]:
    """Opening a store, finding and reading 64 images of it, by images."""
    for number in numbers:
        inputs.announce(f"writing a store of {number:,} images")
        path = inputs.folder / f"images-{number}"
        store = write_store(path, synthetic_images(number), _CROPS_OF_MANY)
        rows, crops = choose_crops(store, inputs.scale.read_batches)
        keys = [store.keys(batch) for batch in rows]
        sides = {
            "open": timed(lambda path=path: LabelStore.open(path)),  # type: ignore[misc]
            "find by key": timed(
                lambda store=store, keys=keys: [store.rows(batch) for batch in keys],  # type: ignore[misc]
                rows.size,
            ),
            "read": store_side(store, rows, crops),
        }
        costs = alternate(sides, inputs.scale.cheap_repeats)
        shutil.rmtree(path)
        for side in sides:
            opening = side == "open"
            yield Row.of(
                f"{side}, store of {number:,} images",
                costs[side],
                unit="ms" if opening else "us / image",
                show=milliseconds if opening else microseconds,
            )


def grow_m(inputs: Inputs, numbers: Sequence[int] = (1, 2, 4, 8, 16)) -> Iterator[Row]:
    """The loader in one process, by crops of an image in a batch."""
    for m in numbers:
        streams = {"ours": our_stream(inputs, m, 0), "official": official_stream(inputs, m, 0)}
        costs = measure_streams(inputs, streams)
        yield Row.of(
            f"loader, one process, m = {m}",
            costs["ours"],
            costs["official"],
            against="official FKD, same m",
            unit="crops / s",
            show=per_second,
        )


def grow_workers(inputs: Inputs, numbers: Sequence[int] = (0, 1, 2)) -> Iterator[Row]:
    """The loader at m = 4, by workers."""
    for number in numbers:
        peer = torchvision_stream(inputs, number)  # first: its workers are forked
        costs = measure_streams(
            inputs, {"torchvision": peer, "ours": our_stream(inputs, 4, number)}
        )
        yield Row.of(
            f"loader, {number} workers, m = 4",
            costs["ours"],
            costs["torchvision"],
            against="torchvision, m = 1",
            unit="crops / s",
            show=per_second,
        )
