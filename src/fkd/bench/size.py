"""How many bytes a crop takes on disk: our store against the official files of the same content.

Everything counts: shards, checksums, keys, commits, manifest. A store holds the names of the
classes once for all images, which a small one feels; so the bytes are also told without the small
files, as a store of a million images has them. Sizes are no times: one measurement says all.
"""

from pathlib import Path

from fkd.bench.harness import compare
from fkd.bench.rows import Goal, Row
from fkd.bench.workbench import Workbench
from fkd.store import LabelStore

_PLAIN = 29.0


def measure(bench: Workbench) -> list[Row]:
    """The plain form."""
    store = bench.labels
    num_crops = len(store) * store.num_crops
    theirs = bytes_below(bench.official_labels) / num_crops
    return [size_row("bytes, plain form", store, theirs, _PLAIN)]


def size_row(name: str, store: LabelStore, theirs: float, goal: float) -> Row:
    """Bytes per crop of a store against `theirs`."""
    num_crops = len(store) * store.num_crops
    return Row.of(
        name,
        compare([bytes_below(store.path) / num_crops], [theirs]),
        against="official files, fp32",
        unit="bytes / crop",
        goal=Goal.below(goal),
        notes={"images": len(store), "shards_alone": store.num_bytes / num_crops},
    )


def bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
