"""How long it takes to read labels, and how many bytes they take on disk.

Reading: ours gives the records, ids and values of chosen crops of 64 images, compared with their
checksums; the official way loads the file of each image, with all its crops, and takes the chosen
ones. Both find their data in the page cache: what is compared is work, not disks. A unit is one
image with 4 of its crops. What share of a loader's time this is: `benchmarks.loading`.

Bytes: shards count whole, with records, checksums, keys and headers; the small files (settings,
commits, manifest), which a store has once for all images, are in the notes. The compact form is as
small as its labels are alike, so it is measured on real ones. The notes say what its rounding of
probabilities does to them.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Side, alternate, timed
from benchmarks.inputs import Inputs
from benchmarks.peers import official_file, read_official_labels
from benchmarks.rows import Goal, Row, Skipped, at_most, microseconds
from fkd.store import LabelStore

BATCH, CROPS = 64, 4
_SINGLES = 8  # images of a batch that are read one by one
_OFFICIAL = "torch.load of the official file of each image"
_COMPACT = "bytes, compact form, real labels"


def measure_reading(inputs: Inputs) -> list[Row]:
    """A batch of 64 images in both forms, and images one by one."""
    store = inputs.labels
    rows, crops = choose_crops(store, inputs.scale.read_batches)
    single_rows = rows[:, :_SINGLES].reshape(-1, 1)
    single_crops = crops[:, :_SINGLES].reshape(-1, 1, CROPS)
    sides = {
        "official": official_side(inputs.official_labels, store, rows, crops),
        "batch": store_side(store, rows, crops),
        "single": store_side(store, single_rows, single_crops),
    }
    names = {
        "batch": (f"read labels, {BATCH} images at once, checked", at_most(20.0)),
        "single": ("read labels, one image alone, checked", None),
        "compact": (f"read labels, compact form, {BATCH} images at once, checked", None),
    }
    skipped = []
    try:
        sides["compact"] = store_side(inputs.compact_labels.after, rows, crops)
    except Skipped as reason:
        skipped = [Row(name=names.pop("compact")[0], skipped=str(reason))]
    costs = alternate(sides, inputs.scale.cheap_repeats)
    return [
        Row.of(
            name,
            costs[side],
            costs["official"],
            against=_OFFICIAL,
            unit="us / image",
            show=microseconds,
            goal=goal,
            notes={"images": len(store), "crops_stored": store.num_crops, "crops_read": CROPS},
        )
        for side, (name, goal) in names.items()
    ] + skipped


def choose_crops(store: LabelStore, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows (batches, 64) and crop numbers (batches, 64, 4) of a store."""
    draw = np.random.default_rng(0)
    size = min(BATCH, len(store))
    rows = np.stack([draw.permutation(len(store))[:size] for _ in range(num_batches)])
    return rows, draw.integers(0, store.num_crops, (*rows.shape, CROPS))


def store_side(store: LabelStore, rows: np.ndarray, crops: np.ndarray) -> Side:
    """Seconds per image of our store, batch after batch."""
    calls = [partial(store.read, *batch) for batch in zip(rows, crops, strict=True)]

    def read() -> None:
        for call in calls:
            call()

    return timed(read, rows.size)


def official_side(folder: Path, store: LabelStore, rows: np.ndarray, crops: np.ndarray) -> Side:
    """Seconds per image with one file per image."""
    files = [official_file(folder, key) for key in store]

    def read() -> None:
        for row, numbers in zip(rows.reshape(-1), crops.reshape(-1, CROPS), strict=True):
            boxes, flips, labels = read_official_labels(files[row])
            _ = boxes[numbers], flips[numbers], labels[numbers]

    return timed(read, rows.size)


def measure_bytes(inputs: Inputs) -> list[Row]:
    """Bytes per crop of both forms; one measurement says all."""
    num_crops = inputs.scale.images * inputs.scale.crops
    official = _bytes_below(inputs.official_labels) / num_crops
    rows = [_bytes_row("bytes, plain form", inputs.labels, official, at_most(29.0), {})]
    try:
        conversion = inputs.compact_labels
    except Skipped as reason:
        return [*rows, Row(name=_COMPACT, skipped=str(reason))]
    comparison = conversion.comparison
    notes = {"mean_kl": comparison.mean_kl, "same_top1": comparison.top1_agreement}
    return [*rows, _bytes_row(_COMPACT, conversion.after, official, at_most(9.0), notes)]


def _bytes_row(
    name: str, store: LabelStore, official: float, goal: Goal, notes: dict[str, Any]
) -> Row:
    num_crops = len(store) * store.num_crops
    notes |= {"images": len(store), "with_small_files": _bytes_below(store.path) / num_crops}
    return Row.of(
        name,
        [store.num_bytes / num_crops],
        [official],
        against="official files, fp32",
        unit="bytes / crop",
        goal=goal,
        notes=notes,
    )


def _bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
