"""How cost grows: with stored crops, with images, with crops per batch, with worker processes.

    crops    M from 50 to 1,000     reading 4 crops of an image, ours and the official file, which
                                    is loaded whole
    images   1,000 to a million     opening a store, finding and reading random images in it
    m        1 to 16                crops a second of the loader in one thread, ours and official
    workers  0 to 2                 crops a second of the loader at m = 4, ours and torchvision

Each figure is the median of alternating repeats, as everywhere here.
"""

import shutil
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import official
from benchmarks.harness import Side, Stream, alternate, timed, torch_threads
from benchmarks.labels import invented_files, write_store
from benchmarks.loading import official_stream, our_stream, torchvision_stream
from benchmarks.reading import BATCH, choose, official_side, store_side
from benchmarks.workbench import Workbench
from fkd.store import LabelStore

Growth = dict[str, list[float]]
"""Values of each line by its name; "x" are the sizes."""

_CROPS_OF_MANY = 20  # stored per image where images are counted


def grow_crops(bench: Workbench, crops: Sequence[int] = (50, 100, 200, 500, 1000)) -> Growth:
    """Microseconds for 4 crops of an image, by crops stored."""
    found: Growth = {"x": [float(m) for m in crops], "ours, checked": [], "official": []}
    for number in crops:
        inner = _inner(bench, f"crops-{number}", images=2 * BATCH, crops=number)
        rows, chosen = choose(inner.labels, inner.scale.read_batches)
        files = [official.label_file(inner.official_labels, key) for key in inner.labels]
        sides = {
            "ours, checked": store_side(inner.labels, rows, chosen),
            "official": official_side(files, rows, chosen),
        }
        _add(found, alternate(sides, bench.scale.cheap_repeats), 1e6)
        shutil.rmtree(inner.folder)
    return found


def grow_images(
    bench: Workbench, images: Sequence[int] = (1000, 10_000, 100_000, 1_000_000)
) -> Growth:
    """Opening a store in milliseconds, and microseconds an image to find and to read 64 of it."""
    names = ("open, ms", "find by key, us / image", "read, us / image")
    found: Growth = {"x": [float(n) for n in images]} | {name: [] for name in names}
    for number in images:
        path = bench.folder / f"images-{number}"
        bench.announce(f"writing a store of {number:,} images")
        store = write_store(path, invented_files(number), _CROPS_OF_MANY)
        sides = _store_sides(store, bench.scale.read_batches)
        costs = alternate(sides, bench.scale.cheap_repeats)
        _add(found, {names[0]: costs["open"]}, 1e3)
        _add(found, {names[1]: costs["find"], names[2]: costs["read"]}, 1e6)
        shutil.rmtree(path)
    return found


def _store_sides(store: LabelStore, num_batches: int) -> dict[str, Side]:
    rows, crops = choose(store, num_batches)
    keys = [store.keys(batch) for batch in rows]

    def find() -> None:
        for batch in keys:
            store.rows(batch)

    return {
        "open": timed(lambda: LabelStore.open(store.path)),
        "find": timed(find, rows.size),
        "read": store_side(store, rows, crops),
    }


def grow_m(bench: Workbench, numbers: Sequence[int] = (1, 2, 4, 8, 16)) -> Growth:
    """Crops a second of a loader in one thread, by crops of an image in a batch."""
    found: Growth = {"x": [float(m) for m in numbers], "ours": [], "official": []}
    for m in numbers:
        with torch_threads(1):
            streams: dict[str, Stream[Any]] = {
                "ours": our_stream(bench, m, 0),
                "official": official_stream(bench, m, 0),
            }
            _add_speeds(found, bench, streams)
    return found


def grow_workers(bench: Workbench, numbers: Sequence[int] = (0, 1, 2)) -> Growth:
    """Crops a second of a loader, by worker processes; ours with m = 4."""
    found: Growth = {"x": [float(n) for n in numbers], "ours, m = 4": [], "torchvision": []}
    for number in numbers:
        with torch_threads(1):
            streams: dict[str, Stream[Any]] = {
                "ours, m = 4": our_stream(bench, 4, number),
                "torchvision": torchvision_stream(bench, number),
            }
            _add_speeds(found, bench, streams)
    return found


def _add_speeds(found: Growth, bench: Workbench, streams: dict[str, Stream[Any]]) -> None:
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, stream in streams.items():
            stack.callback(stream.close)
            sides[name] = partial(stream.seconds_per_unit, bench.scale.loader_batches)
        costs = alternate(sides, bench.scale.repeats)
    for name, values in costs.items():
        found[name].append(1.0 / statistics.median(values))


def _add(found: Growth, costs: dict[str, list[float]], factor: float) -> None:
    for name, values in costs.items():
        found[name].append(factor * statistics.median(values))


def _inner(bench: Workbench, name: str, images: int, crops: int) -> Workbench:
    scale = replace(bench.scale, images=images, crops=crops)
    folder: Path = bench.folder / name
    folder.mkdir()
    return Workbench(folder, scale, announce=bench.announce)
