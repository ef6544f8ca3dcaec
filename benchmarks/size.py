"""How many bytes a crop takes on disk: our store against the official files of the same layout.

Shards count whole: records, checksums, keys, headers. The small files (settings, commits, manifest)
are in the notes: most of them are the names of the classes, which a store holds once for all
images, so that a store of a million images has none of their bytes in a crop. Sizes are no times:
one measurement says all.

The compact form is as small as its labels are alike, so it is measured on real ones: the teacher's
word on 200 crops of some photographs, which all images of the store take in turn, each with boxes
of its own. What the rounding of probabilities does to these labels is in the notes too.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import compare
from benchmarks.labels import NUM_CLASSES, K, Labels
from benchmarks.rows import Goal, Row, Skipped
from benchmarks.workbench import Workbench
from fkd.labels.codecs import Encoded, MarginalSmoothing
from fkd.store import LabelStore
from fkd.store.layout import MAX_HEADER_BYTES, header_length
from fkd.store.manifest import SHARDS

_PLAIN, _COMPACT = 29.0, 9.0
_COMPACT_NAME = "bytes, compact form, real labels"


def measure(bench: Workbench) -> list[Row]:
    """The plain form, and the compact one where there is a teacher."""
    num_crops = bench.scale.images * bench.scale.crops
    theirs = bytes_below(bench.official_labels) / num_crops
    plain = _row("bytes, plain form", bench.labels, theirs, _PLAIN, {})
    try:
        store, labels = bench.compact_labels, bench.real_labels
    except Skipped as reason:
        return [plain, Row(name=_COMPACT_NAME, skipped=str(reason))]
    notes = compare_labels(store, labels) | {"photographs": len(labels[0])}
    return [plain, _row(_COMPACT_NAME, store, theirs, _COMPACT, notes)]


def _row(name: str, store: LabelStore, theirs: float, goal: float, notes: dict[str, Any]) -> Row:
    """Bytes per crop of a store against `theirs`."""
    num_crops = len(store) * store.num_crops
    whole = bytes_below(store.path)
    return Row.of(
        name,
        compare([store.num_bytes / num_crops], [theirs]),
        against="official files, fp32",
        unit="bytes / crop",
        goal=Goal.below(goal),
        notes=notes
        | {
            "images": len(store),
            "with_small_files": whole / num_crops,
            "without_headers": (store.num_bytes - header_bytes(store.path)) / num_crops,
        },
    )


def bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def header_bytes(folder: Path) -> int:
    """Bytes of the headers of all shards, which a large store has once for a thousand images."""
    total = 0
    for path in folder.glob(f"{SHARDS}/*"):
        with path.open("rb") as file:
            total += header_length(file.read(MAX_HEADER_BYTES), path.name)
    return total


def compare_labels(store: LabelStore, labels: Labels) -> dict[str, float]:
    """Mean KL divergence in nats of stored labels from the teacher's, and the share of equal top-1.

    Both are decoded to all classes first; the store holds the labels in turn.
    """
    number = min(len(labels[0]), len(store))
    read = store.read(np.arange(number))
    assert read.index is not None
    assert read.value is not None
    p = _dense(labels[0][:number], labels[1][:number])
    q = _dense(read.index, read.value)
    divergence = (p * (p.clamp_min(1e-30).log() - q.clamp_min(1e-30).log())).sum(1)
    same = (p.argmax(1) == q.argmax(1)).double()
    return {"mean_kl": float(divergence.mean()), "same_top1": float(same.mean())}


def _dense(index: np.ndarray, value: np.ndarray) -> torch.Tensor:
    encoded = Encoded(*(torch.from_numpy(a.reshape(-1, K)) for a in (index, value)))
    return MarginalSmoothing(K).targets(encoded, NUM_CLASSES).dense().double()
