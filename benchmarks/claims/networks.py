"""The teacher's accuracy, and the time of both networks' forward passes for one crop."""

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims.config import ClaimsConfig
from benchmarks.harness import alternate, timed
from fkd.data.sources import open_source
from fkd.evaluation.accuracy import LabeledImages, measure_accuracy
from fkd.models.devices import resolve_device
from fkd.models.teacher import load_teachers
from fkd.models.zoo import load_model

_BATCH, _FORWARDS = 64, 4


def measure_networks(config: ClaimsConfig) -> None:
    """Keep milliseconds per crop of both forward passes and their ratio, in turns, for the report.

    Both are in eval mode, with batch norms folded in the teacher, as in every row.
    """
    device = resolve_device(config.device)
    teacher = load_teachers([config.teacher], device=device).teachers[0]
    loaded = load_model(config.student.name, num_classes=2, input_size=config.student.input_size)
    student = loaded.model.to(device).eval().to(memory_format=torch.channels_last)
    sizes = {"teacher": teacher.preprocessing.input_size}
    sizes["student"] = loaded.preprocessing.input_size
    models = {"teacher": teacher.model, "student": student}

    def side(name: str) -> Any:
        crops = torch.randn(_BATCH, 3, sizes[name], sizes[name], device=device)
        crops = crops.contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def work() -> None:
            for _ in range(_FORWARDS):
                last = models[name](crops)
            last.sum().item()  # waits for a GPU

        return timed(work, _BATCH * _FORWARDS)

    costs = alternate({name: side(name) for name in models}, config.timing_repeats)
    found = {
        f"{name}_ms": 1000.0 * statistics.median(seconds) for name, seconds in costs.items()
    } | {f"{name}_pixels": size for name, size in sizes.items()}
    _write(config, found | {"ratio": found["teacher_ms"] / found["student_ms"]})


def measure_teacher(config: ClaimsConfig) -> None:
    """Keep the teacher's top-1 on the validation images, percent; once."""
    if "teacher_top1" in read_networks(config):
        return
    device = resolve_device(config.device)
    teacher = load_teachers([config.teacher], device=device).teachers[0]
    accuracy = measure_accuracy(
        teacher.model,
        LabeledImages.match(open_source(config.val), teacher.class_names),
        teacher.preprocessing,
        device=device,
        num_workers=config.num_workers,
    )
    _write(config, {"teacher_top1": accuracy.top1})


def read_networks(config: ClaimsConfig) -> dict[str, float]:
    """What was measured so far."""
    file = Path(config.out) / "networks.json"
    found: dict[str, float] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def _write(config: ClaimsConfig, found: dict[str, float]) -> None:
    text = json.dumps(read_networks(config) | found, indent=1) + "\n"
    (Path(config.out) / "networks.json").write_text(text, "utf-8")
