"""How long it takes to read labels: our store against the official files of the same content.

Ours gives the records, ids and values of chosen crops; the official way loads the file of each
image, with all its crops, and takes the chosen ones. Both find their data in the page cache: what
is compared is work, not disks. By default every record that our store reads is compared with its
checksum; the official files have none. A unit is one image with 4 of its crops.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import official
from benchmarks.harness import Side, alternate, compare, timed
from benchmarks.rows import Goal, Row, Skipped, microseconds
from benchmarks.workbench import Workbench
from fkd.store import LabelStore

BATCH, CROPS = 64, 4
_COMPACT = f"read labels, compact form, {BATCH} images at once, checked"
_SINGLES_PER_BATCH = 8  # images that are read alone, for every batch that is read


def measure(bench: Workbench) -> list[Row]:
    """Batches checked and unchecked, single records, and the compact form where it can be made."""
    store = bench.labels
    files = [official.label_file(bench.official_labels, key) for key in store]
    unchecked = LabelStore.open(store.path, check_reads=False)
    rows, crops = choose(store, bench.scale.read_batches)
    sides = {
        "official": official_side(files, rows, crops),
        "checked": store_side(store, rows, crops),
        "unchecked": store_side(unchecked, rows, crops),
        "single": store_side(store, rows[:, :_SINGLES_PER_BATCH], crops, single=True),
    }
    missing = ""
    try:
        sides["compact"] = store_side(bench.compact_labels, rows, crops)
    except Skipped as reason:
        missing = str(reason)
    costs = alternate(sides, bench.scale.cheap_repeats)
    lines = (
        ("checked", f"read labels, {BATCH} images at once, checked", 80.0),
        ("unchecked", f"read labels, {BATCH} images at once, unchecked", 150.0),
        ("single", "read labels, one image alone, checked", 15.0),
        ("compact", _COMPACT, 8.0),
    )
    found = [
        Row.of(
            name,
            compare(costs[side], costs["official"]),
            against="torch.load of the official file of each image",
            unit="us / image",
            show=microseconds,
            goal=Goal.times(goal),
            notes={"images": len(store), "crops_stored": store.num_crops, "crops_read": CROPS},
        )
        for side, name, goal in lines
        if side in costs
    ]
    return found + ([Row(name=_COMPACT, skipped=missing)] if missing else [])


def choose(store: LabelStore, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows (batches, 64) and crop numbers (batches, 64, 4) of a store."""
    draw = np.random.default_rng(0)
    size = min(BATCH, len(store))
    shape = (num_batches, size, min(CROPS, store.num_crops))
    rows = np.stack([draw.permutation(len(store))[:size] for _ in range(num_batches)])
    return rows, draw.integers(0, store.num_crops, shape)


def official_side(files: list[Path], rows: np.ndarray, crops: np.ndarray) -> Side:
    """Seconds per image with one file an image."""

    def read() -> None:
        for batch, chosen in zip(rows.tolist(), crops, strict=True):
            for row, numbers in zip(batch, chosen, strict=True):
                boxes, flips, labels = official.read_labels(files[row])
                _ = boxes[numbers], flips[numbers], labels[numbers]

    return timed(read, rows.size)


def store_side(
    store: LabelStore, rows: np.ndarray, crops: np.ndarray, single: bool = False
) -> Side:
    """Seconds per image of our store, by batches or one by one."""
    calls: list[Callable[[], object]] = []
    for batch, chosen in zip(rows, crops, strict=True):
        if single:
            calls += [
                partial(store.read, batch[i : i + 1], chosen[i : i + 1]) for i in range(len(batch))
            ]
        else:
            calls.append(partial(store.read, batch, chosen))

    def read() -> None:
        for call in calls:
            call()

    return timed(read, rows.size)
