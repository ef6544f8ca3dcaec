"""What it costs to begin: `import fkd`, and opening a store with as many images as ImageNet.

Each repeat is a new interpreter. The peer of `import fkd` is `import torch`, which fkd puts off
until something needs it. Opening has no peer: official files cannot be opened as a whole. It reads
the small files, whose number and size do not depend on the crops stored per image, so the store
here has one crop of each. Memory is what opening adds to a process that has imported the store,
torch included.
"""

import shutil

from benchmarks.harness import run_in_new_process
from benchmarks.inputs import Inputs
from benchmarks.rows import Row, at_most, mebibytes, milliseconds
from benchmarks.stores import synthetic_images, write_store

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
added = max(held() - before, peak() - max(before, peak_before))
print(json.dumps({"fkd": fkd, "torch": torch, "open": opening, "added": added}))
"""


def measure_startup(inputs: Inputs) -> list[Row]:
    """Importing and opening."""
    number, path = inputs.scale.opened, inputs.folder / "large-store"
    inputs.announce(f"writing a store of {number:,} images")
    write_store(path, synthetic_images(number), num_crops=1)
    runs = [run_in_new_process(_PROGRAM, str(path)) for _ in range(inputs.scale.repeats)]
    shutil.rmtree(path)
    costs = {name: [run[name] for run in runs] for name in runs[0]}
    opening = f"open a store of {number:,} images"
    return [
        Row.of(
            "import fkd",
            costs["fkd"],
            costs["torch"],
            against="import torch",
            unit="ms",
            show=milliseconds,
            goal=at_most(300.0),
        ),
        Row.of(opening, costs["open"], unit="s", goal=at_most(1.0)),
        Row.of(
            f"{opening}, memory",
            costs["added"],
            unit="MiB",
            show=mebibytes,
            goal=at_most(200.0),
        ),
    ]
