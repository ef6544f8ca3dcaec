"""Crops a second of labeling, with decoding, cropping, compressing and writing.

exact     `fkd label` itself, from the first image to the last label on disk
fast      the same with --numerics fast, whose effect on the labels is in the notes
bare      the teacher's network alone on normalized crops in memory: same batch size, same
          number of passes side by side, one thread each; the limit of any labeling
official  the structure of the authors' generator: Pillow, chunks of 50 crops, a sort, one file
          per image, two worker processes; all threads in each pass
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import torch
from torchvision.transforms import InterpolationMode

from benchmarks import peers
from benchmarks.harness import Side, Stream, alternate, timed, torch_threads
from benchmarks.inputs import Inputs
from benchmarks.rows import Row, at_least, per_second
from benchmarks.stores import K
from fkd.data.sources import ImagesConfig
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codecs import MarginalSmoothing
from fkd.models.teacher import load_teachers
from fkd.models.zoo import load_model

_WORKERS = 2
_BATCH_SIZE = 16  # labeling's default on a CPU


def measure_labeling(inputs: Inputs) -> list[Row]:
    """Ours against the limit and against the official structure.

    Raises:
        Skipped: the teacher's weights are not here.
    """
    inputs.require_teacher()
    number, crops = inputs.scale.labeled
    impacts: list[str] = []
    generator, images = _official_side(inputs)
    try:
        sides: dict[str, Side] = {
            "official": generator,
            "bare": _bare_side(inputs),
            "exact": partial(_label, inputs, "exact"),
            "fast": partial(_label, inputs, "fast", impacts),
        }
        costs = alternate(sides, inputs.scale.repeats)
    finally:
        images.close()
    notes = {"images": number, "crops": crops, "teacher": inputs.scale.teacher.name}
    return [
        Row.of(
            f"labeling, {ours}",
            costs[ours],
            costs[peer],
            against=against,
            unit="crops / s",
            show=per_second,
            goal=at_least(goal),
            notes=notes | ({"remark": impacts[-1]} if ours == "fast" else {}),
        )
        for ours, peer, against, goal in (
            ("exact", "bare", "bare teacher forward", 0.9),
            ("exact", "official", "official generator", 1.9),
            ("fast", "official", "official generator", 3.3),
        )
    ]


def _label(inputs: Inputs, numerics: Any, impacts: list[str] | None = None) -> float:
    """Seconds per crop of `fkd label`; adds to `impacts` what fast numerics do to the labels."""
    number, crops = inputs.scale.labeled
    out = inputs.folder / "labeled-store"
    shutil.rmtree(out, ignore_errors=True)
    config = LabelConfig(
        images=ImagesConfig(root=str(inputs.teacher_images)),
        out=str(out),
        teacher=inputs.scale.teacher,
        num_crops=crops,
        codec=MarginalSmoothing(K),
        numerics=numerics,
        accuracy_images=0,
        spot_checks=0,
        device="cpu",
    )
    result = label(config)
    if impacts is not None:
        impacts.append(str(result.precision_impact))
    return result.seconds / (number * crops)


def _bare_side(inputs: Inputs) -> Side:
    """The network alone, batch after batch in as many threads as labeling has."""
    teacher = load_teachers([inputs.scale.teacher]).teachers[0]
    size, passes = teacher.preprocessing.input_size, torch.get_num_threads()
    crops = torch.rand(_BATCH_SIZE, 3, size, size).contiguous(memory_format=torch.channels_last)
    number, crops_per_image = inputs.scale.labeled
    num_batches = -(-number * crops_per_image // _BATCH_SIZE)

    def forward(_: int) -> None:
        with torch.inference_mode():
            teacher.model(crops)

    def work() -> None:
        with torch_threads(1), ThreadPoolExecutor(passes) as pool:
            list(pool.map(forward, range(num_batches)))

    return timed(work, num_batches * _BATCH_SIZE)


def _official_side(inputs: Inputs) -> tuple[Side, Stream[Any]]:
    """The generator on as many images, with the network as its library gives it; its images."""
    config, (number, crops) = inputs.scale.teacher, inputs.scale.labeled
    loaded = load_model(
        config.name, pretrained=config.checkpoint is None, checkpoint=config.checkpoint
    )
    network, preprocessing = loaded.model.eval().requires_grad_(False), loaded.preprocessing
    interpolation = InterpolationMode(preprocessing.interpolation)
    dataset = peers.CropsOfImage(
        inputs.teacher_images, crops, preprocessing.input_size, interpolation
    )
    batches = peers.endless(dataset, 1, _WORKERS, collate_fn=_only_item)
    images = Stream(batches, lambda item: len(item[0]))

    def work() -> None:
        folder = inputs.folder / "official-labeled"
        peers.official_generate(network, islice(iter(images), number), folder, K)

    return timed(work, number * crops), images


def _only_item(items: list[Any]) -> Any:
    return items[0]
