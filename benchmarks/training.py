"""Training steps and epochs, with everything: images from disk, m = 4, labels from the store.

    ours     `fkd train` with stored labels; four epochs a pass
    kd       `fkd train` with the same teacher online: our engine and loader at m = 4, batch norms
             folded, crops of the teacher's own size and interpolation for both networks, so that
             nothing is cut twice
    bare     the same student and optimizer on normalized crops that are in memory: the limit
    vanilla  torchvision's loader, one crop per image, classes; no teacher at all

Ours and kd are whole runs, of which the steady steps count: neither the first pass nor the first
step of another, before which a checkpoint is written. All students are the same network in
channels-last memory. Loader and student share the cores of the machine, so on a CPU the ratio to
the bare step cannot be 1: a crop that takes 0.5 ms to load beside a student that takes 7 ms costs
7 % of a core. A ratio of 1 against vanilla says that soft labels cost nothing; the ratio against kd
is what labeling once saves in every epoch.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Side, alternate
from benchmarks.inputs import Inputs
from benchmarks.loading import torchvision_stream
from benchmarks.rows import Goal, Row, Skipped, at_least, per_second
from benchmarks.stores import NUM_CLASSES
from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig, build_optimizer
from fkd.engine.schedule import ScheduleConfig
from fkd.models.zoo import load_model
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

M = 4
_OPTIMIZER = OptimizerConfig(name="sgd", lr=0.01)
_WORKERS = 2
_SETTLE_SECONDS = 0.3  # in which the workers of a loader fill their queue


def measure_step(inputs: Inputs) -> list[Row]:
    """Ours against the bare step."""
    sides = {"bare": _plain_side(inputs, _batches_in_memory(inputs)), "ours": _run_side(inputs)}
    costs = alternate(sides, inputs.scale.repeats, warmups=0)
    against = f"bare step of {inputs.scale.student}, crops in memory"
    name = f"training step from disk, m = {M}"
    return [_row(inputs, name, costs["ours"], costs["bare"], against, at_least(0.9))]


def measure_epoch(inputs: Inputs) -> list[Row]:
    """Ours against vanilla training and online distillation."""
    name, skipped = f"epoch, m = {M}", []
    peers = {
        "vanilla": ("plain torchvision training", at_least(1.0)),
        "kd": (f"online KD, {inputs.scale.teacher.name}, tuned alike", at_least(1.5)),
    }
    with ExitStack() as stack:
        plain = torchvision_stream(inputs, _WORKERS)
        stack.callback(plain.close)
        # Vanilla first: its workers are forked, which must be before there are threads.
        sides = {"vanilla": _plain_side(inputs, iter(plain)), "ours": _run_side(inputs)}
        try:
            inputs.require_teacher()
            sides["kd"] = _run_side(inputs, online=True)
        except Skipped as reason:
            skipped = [Row(name=name, against=peers.pop("kd")[0], skipped=str(reason))]
        costs = alternate(sides, inputs.scale.repeats, warmups=0)
    return [
        _row(inputs, name, costs["ours"], costs[peer], against, goal)
        for peer, (against, goal) in peers.items()
    ] + skipped


def _row(
    inputs: Inputs, name: str, ours: list[float], peer: list[float], against: str, goal: Goal
) -> Row:
    return Row.of(
        name,
        ours,
        peer,
        against=against,
        unit="crops / s",
        show=per_second,
        goal=goal,
        notes={"student": inputs.scale.student, "crops_per_step": inputs.scale.batch_size},
    )


def _run_side(inputs: Inputs, *, online: bool = False) -> Side:
    """Seconds per crop of a steady step of `fkd train`."""
    scale, folder = inputs.scale, inputs.folder / "run"
    config = TrainConfig(
        out=str(folder),
        images=ImagesConfig(root=str(inputs.photographs)),
        student=StudentConfig(name=scale.student, input_size=scale.crop_size),
        store=str(inputs.photograph_labels.path),
        crops_per_image=M,
        epochs=M * scale.passes,
        batch_size=scale.batch_size,
        optimizer=_OPTIMIZER,
        schedule=ScheduleConfig(single_crop_ending=False),  # every step has m crops of each image
        log_every=1,
        checkpoint_seconds=3600.0,
        num_workers=_WORKERS,
        device="cpu",
    )
    if online:
        teacher = replace(scale.teacher, input_size=scale.crop_size)
        student = replace(config.student, interpolation="bicubic")  # the teacher's
        config = replace(config, method="kd", store=None, teacher=teacher, student=student)

    def side() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        train(config)
        return seconds_per_crop(read_log(folder), M, skip_epochs=M)

    return side


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in a run folder."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def seconds_per_crop(
    lines: Sequence[Mapping[str, Any]], pass_epochs: int, *, skip_epochs: int
) -> float:
    """Mean time per crop in steady lines of a log.

    Args:
        lines: of metrics.jsonl; each has the crops per second since the line before.
        pass_epochs: epochs of a pass; the first line of each pass does not count.
        skip_epochs: epochs at the beginning that do not count.
    """
    epochs, seconds = 0.0, 0.0  # crops in epochs: their number of images cancels
    for before, line in pairwise(lines):
        start, end = before["epoch"], line["epoch"]
        if start >= skip_epochs and start % pass_epochs and end > start:
            epochs += end - start
            seconds += (end - start) / line["crops_per_second"]
    return seconds / epochs


def _batches_in_memory(inputs: Inputs) -> Iterator[tuple[Tensor, Tensor]]:
    size, pixels = inputs.scale.batch_size, inputs.scale.crop_size
    images = torch.randn(size, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    return repeat((images, torch.arange(size) % NUM_CLASSES))


def _plain_side(inputs: Inputs, batches: Iterator[tuple[Tensor, Tensor]]) -> Side:
    """Seconds per crop of a plain loop: the student against the classes.

    The first step is not counted, so that all counted ones begin and end in the same state.
    """
    torch.manual_seed(0)
    loaded = load_model(
        inputs.scale.student, num_classes=NUM_CLASSES, input_size=inputs.scale.crop_size
    )
    student = loaded.model.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(_OPTIMIZER, student)

    def step() -> float:
        images, labels = next(batches)
        logits = student(images.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter()

    def side() -> float:
        ends = [step() for _ in range(1 + inputs.scale.steps)]
        time.sleep(_SETTLE_SECONDS)
        return (ends[-1] - ends[0]) / inputs.scale.steps / inputs.scale.batch_size

    return side
