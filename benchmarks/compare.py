"""Two checkouts of fkd side by side: is the new one as fast as the old one?

    python -m benchmarks.compare OLD/src NEW/src --repeats 7

In each repeat a new process measures each checkout, the old one first in even repeats and the new
one first in odd ones (ABBA), so that a machine that gets slower meanwhile favors neither:

    loader    MultiCropDataset and torch's DataLoader, m = 4, uint8, in one process
    step      `train`, MobileNetV3-small with labels from the store, m = 4: steady steps
    labeling  `label`, EfficientNet-Lite0, from the first image to the last label

Both label and read the same JPEG files; each has a label store of its own making. Only names that
`fkd` itself exports are used, with default settings where later versions may move them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

MEASUREMENTS = ("loader", "step", "labeling")
_IMAGES, _FEW_IMAGES = 16, 8  # that the loader reads and the student sees; that are labeled
_SIDE, _CROPS, _M, _PASSES = 390, 32, 4, 5


def main(argv: list[str] | None = None) -> None:
    """Print crops per second of both checkouts and their ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("old", type=Path, help="source folder (src) of the old checkout")
    parser.add_argument("new", type=Path, help="source folder of the new checkout")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", default=",".join(MEASUREMENTS), help="separated by commas")
    options = parser.parse_args(argv)
    rows = options.rows.split(",")
    sources = {"old": options.old.absolute(), "new": options.new.absolute()}
    for name, source in sources.items():
        if not (source / "fkd").is_dir():
            parser.error(f"{name}: {source} has no package fkd; give the folder src of a checkout")
    if set(rows) - set(MEASUREMENTS):
        parser.error(f"--rows: choose from {', '.join(MEASUREMENTS)}")
    with tempfile.TemporaryDirectory(prefix="fkd-compare-") as folder:
        _write_images(Path(folder))
        speeds = measure_in_turns(sources, Path(folder), rows, options.repeats)
    print(f"{'':10}{'old':>12}{'new':>12}{'new / old':>12}{'spread':>9}{'n':>4}   crops / s")
    for row in rows:
        print(format_row(row, speeds["old"][row], speeds["new"][row]))


def measure_in_turns(
    sources: dict[str, Path], folder: Path, rows: Sequence[str], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Crops per second by checkout and row, one figure per repeat; the first round warms up."""
    speeds: dict[str, dict[str, list[float]]] = {
        name: {row: [] for row in rows} for name in sources
    }
    for repeat in range(-1, repeats):
        for name in sorted(sources, reverse=repeat % 2 == 0):  # "old", then "new"
            figures = _run(sources[name], folder, folder / name, rows)
            print(f"{name}, repeat {repeat + 1} of {repeats}: {figures}", flush=True)
            if repeat >= 0:
                for row in rows:
                    speeds[name][row].append(figures[row])
    return speeds


def format_row(row: str, old: Sequence[float], new: Sequence[float]) -> str:
    """A line of the table: medians, their ratio, and the spread of the ratios of single repeats."""
    from benchmarks.harness import relative_range

    ratios = [b / a for a, b in zip(old, new, strict=True)]
    a, b = statistics.median(old), statistics.median(new)
    return f"{row:10}{a:12.1f}{b:12.1f}{b / a:12.3f}{relative_range(ratios):9.1%}{len(old):4}"


def _run(source: Path, images: Path, work: Path, rows: Sequence[str]) -> dict[str, float]:
    """What a new process measures with one checkout."""
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-P", __file__, "--measure", str(images), str(work), *rows]
    environment = os.environ | {"PYTHONPATH": str(source)}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _write_images(folder: Path) -> None:
    """`all` with photographs in class folders, `few` with some of them."""
    from benchmarks.photographs import write_jpegs

    write_jpegs(folder / "photographs", _IMAGES, _SIDE)
    files = sorted((folder / "photographs" / "classes").rglob("*.jpg"))
    for name, chosen in (("all", files), ("few", files[:: _IMAGES // _FEW_IMAGES])):
        for file in chosen:
            target = folder / name / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())


def _measure(images: Path, work: Path, rows: Sequence[str]) -> dict[str, float]:
    """In the new process: crops per second of each row with the `fkd` that Python finds."""
    from fkd.cli.process import prepare_process

    prepare_process()  # before torch is imported, as commands do
    store = work / "store"
    _label(images / "all", store)  # returns at once where it is finished
    measurements: dict[str, Callable[[], float]] = {
        "loader": lambda: _loader(images / "all", store),
        "step": lambda: _step(images / "all", store, work / "run"),
        "labeling": lambda: _label(images / "few", work / "labeled"),
    }
    return {row: measurements[row]() for row in rows}


def _loader(images: Path, store: Path) -> float:
    import torch
    from torch.utils.data import DataLoader

    import fkd

    torch.set_num_threads(1)
    dataset = fkd.MultiCropDataset(
        fkd.open_source(fkd.ImagesConfig(root=str(images))),
        fkd.LabelStore.open(store),
        crops_per_image=_M,
        output="uint8",
    )
    loader = DataLoader(dataset, batch_size=_IMAGES, collate_fn=fkd.collate_crops)
    started, crops = 0.0, 0
    for epoch in range(3 * _PASSES):
        if epoch == _PASSES:  # the passes before it warm up
            started, crops = time.perf_counter(), 0
        dataset.set_epoch(epoch)
        crops += sum(len(batch) for batch, _ in loader)
    return crops / (time.perf_counter() - started)


def _step(images: Path, store: Path, run: Path) -> float:
    import fkd
    from fkd.training.config import StudentConfig

    shutil.rmtree(run, ignore_errors=True)
    fkd.train(
        fkd.TrainConfig(
            out=str(run),
            images=fkd.ImagesConfig(root=str(images)),
            student=StudentConfig(name="mobilenetv3_small_100"),
            store=str(store),
            crops_per_image=_M,
            epochs=_M * _PASSES,
            batch_size=_M * 4,
            log_every=1,
            device="cpu",
        )
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    # Neither the first pass counts nor the first step of another: a checkpoint comes before it.
    speeds = [
        line["crops_per_second"]
        for before, line in pairwise(lines)
        if before["epoch"] >= _M and before["epoch"] % _M and line["epoch"] > before["epoch"]
    ]
    return statistics.harmonic_mean(speeds)


def _label(images: Path, store: Path) -> float:
    import fkd

    if store.name != "store":
        shutil.rmtree(store, ignore_errors=True)
    teacher = fkd.TeacherConfig(name="tf_efficientnet_lite0")
    config = fkd.LabelConfig(
        images=fkd.ImagesConfig(root=str(images)),
        out=str(store),
        teacher=teacher,
        num_crops=_CROPS,
        device="cpu",
    )
    seconds = fkd.label(config).seconds
    return len(list(images.rglob("*.jpg"))) * _CROPS / seconds


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(_measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])))
    else:
        main()
