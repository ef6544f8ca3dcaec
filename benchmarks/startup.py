"""What it costs to begin: `import fkd`, and opening a store of ImageNet's size.

Each repeat is a fresh interpreter. The peer of `import fkd` is `import torch`, which fkd puts off
until something needs it. Opening has no peer: official files cannot be opened as a whole. Its store
has 1.28 million images x 200 crops with all its small files; the shards have the right length and
headers, and no content on disk, for opening does not read it. Memory is what opening adds to a
process that has imported the store, torch included.
"""

from pathlib import Path

from benchmarks.harness import compare, run_afresh
from benchmarks.labels import invented_key, store_config
from benchmarks.rows import Goal, Row, mebibytes, milliseconds
from benchmarks.workbench import Workbench
from fkd.store import canonical
from fkd.store.canonical import sha256
from fkd.store.config import StoreConfig
from fkd.store.layout import build_header, columns_of, metadata_of, place
from fkd.store.manifest import (
    COMMITS,
    CONFIG,
    MANIFEST,
    SHARDS,
    Manifest,
    ShardEntry,
    commit_name,
)

_PROGRAM = """
import json, resource, sys, time
def seconds_of(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
fkd = seconds_of(lambda: __import__("fkd"))
torch = seconds_of(lambda: __import__("torch"))
from fkd.store import LabelStore
before, peak_before = held(), peak()
opening = seconds_of(lambda: LabelStore.open(sys.argv[1]))
grown = max(held() - before, peak() - max(before, peak_before))
print(json.dumps({"fkd": fkd, "torch": torch, "open": opening, "grown": grown, "all": held()}))
"""
_DIGEST_OF_NOTHING_READ = "0" * 64


def measure(bench: Workbench) -> list[Row]:
    """Importing and opening."""
    path = bench.folder / "large-store"
    num_shards = write_hollow_store(path, bench.scale.opened, bench.scale.crops)
    found = [run_afresh(_PROGRAM, str(path)) for _ in range(bench.scale.repeats)]
    notes = {
        "images": bench.scale.opened,
        "crops": bench.scale.crops,
        "shards": num_shards,
        "process_bytes": found[-1]["all"],
    }
    imported = compare([run["fkd"] for run in found], [run["torch"] for run in found])
    opening = f"open a store of {bench.scale.opened:,} images"
    return [
        Row.of(
            "import fkd",
            imported,
            against="import torch",
            unit="ms",
            show=milliseconds,
            goal=Goal.below(300.0),
        ),
        Row.alone(
            opening, [run["open"] for run in found], unit="s", goal=Goal.below(1.0), notes=notes
        ),
        Row.alone(
            f"{opening}, memory",
            [run["grown"] for run in found],
            unit="MiB",
            show=mebibytes,
            goal=Goal.below(200.0),
            notes=notes,
        ),
    ]


def write_hollow_store(path: Path, num_images: int, num_crops: int) -> int:
    """A finished store whose shards have no content on disk; returns the number of shards."""
    keys = [invented_key(i) for i in range(num_images)]
    config = StoreConfig.parse(store_config(keys, num_crops), "the config")
    for folder in (SHARDS, COMMITS):
        (path / folder).mkdir(parents=True)
    entries = [_hollow_shard(path, config, keys, n) for n in range(config.num_shards)]
    (path / CONFIG).write_bytes(canonical.encode(config.source))
    (path / MANIFEST).write_bytes(Manifest(config, tuple(entries), {}, []).encode())
    return len(entries)


def _hollow_shard(path: Path, config: StoreConfig, keys: list[bytes], number: int) -> ShardEntry:
    first, stop = config.shard_range(number)
    placed = place(columns_of(config, False), stop - first, sum(map(len, keys[first:stop])))
    header = build_header(placed, metadata_of(config.config_id, first))
    entry = ShardEntry(
        number=number,
        num_bytes=len(header) + max(array.stop for array in placed.values()),
        sha256=_DIGEST_OF_NOTHING_READ,
        header_sha256=sha256(header),
        first_image=first,
        num_images=stop - first,
        first_key=keys[first],
    )
    with (path / entry.file).open("wb") as file:
        file.write(header)
        file.truncate(entry.num_bytes)
    (path / commit_name(number)).write_bytes(entry.commit(config.config_id))
    return entry
