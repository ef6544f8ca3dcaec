"""Crops a second of labeling, with decoding, cropping, compressing and writing.

    exact     `fkd label` itself, from the first image to the last label on disk
    fast      the same with --numerics fast, which says how far it moves the labels
    bare      the teacher's network alone on normalized crops that lie ready: same batch size, same
              number of passes side by side, same threads; the limit of any labeling
    official  the structure of the authors' generator: Pillow, chunks of 50 crops, a sort, one file
              an image, two worker processes

Our forward passes are reproducible to the last bit, which is why each has one thread (see
`fkd.labeling.numerics`); the official generator may use all threads in each pass, as it does.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode

from benchmarks import official
from benchmarks.harness import Side, Stream, alternate, compare, timed
from benchmarks.labels import K
from benchmarks.plain import EndlessBatches
from benchmarks.rows import Goal, Row, per_second
from benchmarks.workbench import Workbench
from fkd.data import ImagesConfig
from fkd.labeling import LabelConfig, label
from fkd.labeling.config import Numerics, resolve_batch_size
from fkd.labels.codecs import MarginalSmoothing
from fkd.models import load_teachers
from fkd.models.numerics import exact_numerics
from fkd.models.zoo import LoadedModel, load_model

_WORKERS = 2
_CPU = torch.device("cpu")


def measure(bench: Workbench) -> list[Row]:
    """Ours against the limit and against the official structure.

    Raises:
        Skipped: the teacher's weights are not here.
    """
    bench.require_teacher()
    images = bench.some_photographs
    batches = _official_batches(bench, images)
    stream = Stream(batches, lambda item: len(item[0]))
    shifts: list[str] = []
    try:
        sides = {
            "official": _official_side(bench, stream),
            "bare": _bare_side(bench, images),
            "exact": _label_side(bench, images, "exact"),
            "fast": _label_side(bench, images, "fast", shifts.append),
        }
        costs = alternate(sides, bench.scale.repeats)
    finally:
        stream.close()
    number, crops = bench.scale.labeled
    notes = {"images": number, "crops": crops, "teacher": bench.scale.teacher.name}
    lines = (
        ("exact", "bare", "bare teacher forward", 0.9),
        ("exact", "official", "official generator", 1.9),
        ("fast", "official", "official generator", 3.3),
    )
    return [
        Row.of(
            f"labeling, {ours}",
            compare(costs[ours], costs[peer]),
            against=against,
            unit="crops / s",
            show=per_second,
            goal=Goal.times(goal),
            notes=notes | ({"shift": shifts[-1]} if ours == "fast" else {}),
        )
        for ours, peer, against, goal in lines
    ]


def label_config(
    bench: Workbench, images: Path, out: Path, numerics: Numerics = "exact"
) -> LabelConfig:
    """Labeling with the defaults, without the checks before and after it."""
    return LabelConfig(
        images=ImagesConfig(root=str(images)),
        out=str(out),
        teacher=bench.scale.teacher,
        num_crops=bench.scale.labeled[1],
        codec=MarginalSmoothing(K),
        numerics=numerics,
        accuracy_images=0,
        spot_checks=0,
        device="cpu",
    )


def _label_side(
    bench: Workbench,
    images: Path,
    numerics: Numerics,
    shifted: Callable[[str], None] = lambda shift: None,
) -> Side:
    """Seconds per crop of `fkd label`; `shifted` is told what fast numerics do to the labels."""
    out = bench.folder / "labeled-store"
    config = label_config(bench, images, out, numerics)
    num_crops = bench.scale.labeled[0] * bench.scale.labeled[1]

    def side() -> float:
        shutil.rmtree(out, ignore_errors=True)
        result = label(config)
        shifted(str(result.precision_impact))
        return result.seconds / num_crops

    return side


def _bare_side(bench: Workbench, images: Path) -> Side:
    """The network alone, batch after batch in as many threads as labeling has."""
    teacher = load_teachers([bench.scale.teacher]).teachers[0]
    model, size = teacher._model, teacher.preprocessing.input_size  # what labeling itself runs
    chosen = label_config(bench, images, bench.folder).batch_size
    batch_size = resolve_batch_size(chosen, _CPU)
    crops = torch.rand(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    num_batches = -(-bench.scale.labeled[0] * bench.scale.labeled[1] // batch_size)

    def answer(_: int) -> None:
        with torch.inference_mode():
            model(crops)

    def work() -> None:
        with exact_numerics() as passes, ThreadPoolExecutor(passes) as pool:
            list(pool.map(answer, range(num_batches)))

    return timed(work, num_batches * batch_size)


def _official_side(bench: Workbench, images: Stream[Any]) -> Side:
    """The generator on as many images; its network is as its library gives it."""
    number, crops = bench.scale.labeled
    model = load_teacher(bench).model
    out = bench.folder / "official-labeled"

    def work() -> None:
        official.generate(model, islice(iter(images), number), out, K)

    return timed(work, number * crops)


def _official_batches(bench: Workbench, images: Path) -> Iterator[Any]:
    loaded = load_teacher(bench)
    how = InterpolationMode(loaded.preprocessing.interpolation)
    dataset = official.CropsOfImage(
        images, bench.scale.labeled[1], loaded.preprocessing.input_size, how
    )
    sampler = EndlessBatches(len(dataset), 1)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=_WORKERS, collate_fn=_only_item)
    yield from loader


def _only_item(items: list[Any]) -> Any:
    return items[0]


def load_teacher(bench: Workbench) -> LoadedModel:
    """The teacher's network as its library gives it, ready to answer."""
    config = bench.scale.teacher
    loaded = load_model(
        config.name, pretrained=config.checkpoint is None, checkpoint=config.checkpoint
    )
    loaded.model.eval().requires_grad_(False)
    return loaded
