"""Measures a detector on validation images, and writes what was measured."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from fkd.data.batches import load_batches
from fkd.data.crop_sources import CropRequest
from fkd.engine.durable import replace_text
from fkd.engine.logging import Metrics
from fkd.training.workers import count_workers, kind_of_workers, on_gpu
from fkd.transfer.average_precision import AveragePrecision, PrecisionMeter
from fkd.transfer.batches import DetectionCutter
from fkd.transfer.coco import CocoSet
from fkd.transfer.config import TransferConfig
from fkd.transfer.setup import DetectionSetup

RESULT_FILE = "result.json"


@torch.inference_mode()
def measure_detector(
    config: TransferConfig,
    setup: DetectionSetup,
    val: CocoSet,
    accelerator: Accelerator,
    model: nn.Module,
) -> Metrics:
    """AP on the validation images, percent; written to result.json. The main process has it."""
    network = model.get_submodule("network").eval()
    masks = config.task == "segmentation"
    meter = PrecisionMeter(masks=masks)
    cutter = DetectionCutter(coco=val, masks=masks, training=False)
    share = range(accelerator.process_index, len(val.images), accelerator.num_processes)
    batches = load_batches(
        cutter,
        ([CropRequest(i, 0, 1)] for i in share),
        num_workers=count_workers(config),
        pin_memory=accelerator.device.type == "cuda",
        workers=kind_of_workers(config),
        bursts=not on_gpu(config),
    )
    with closing(batches):
        for batch in batches:
            images, _ = batch.to(accelerator.device).inputs()
            meter.add(network(images), batch.targets)
    if accelerator.num_processes > 1:
        meter.gather()
    if not accelerator.is_main_process:
        return {}
    figures = meter.compute()
    replace_text(Path(config.out) / RESULT_FILE, result_json(setup, figures))
    return {
        f"val_{kind}_{name}": getattr(of, name)
        for kind, of in figures.items()
        for name in ("ap", "ap50", "ap75")
    }


def result_json(setup: DetectionSetup, figures: dict[str, AveragePrecision]) -> str:
    """The newest AP, percent, with that of each category by its id in the file."""
    result: dict[str, Any] = {
        "detector": setup.card.kind,
        "backbone": setup.backbone.name,
        "weights": setup.backbone.origin,
    }
    if setup.data.val is not None:
        result["val_images"] = len(setup.data.val.images)
    for kind, of in figures.items():
        named = {n: value for n, value in asdict(of).items() if n != "per_label"}
        result[kind] = named | {"categories": _per_category(setup, of)}
    return json.dumps(result, indent=2) + "\n"


def _per_category(setup: DetectionSetup, of: AveragePrecision) -> list[dict[str, Any]]:
    categories = setup.card.categories
    return [
        {"id": categories[label - 1].id, "name": categories[label - 1].name, "ap": ap}
        for label, ap in sorted(of.per_label.items())
    ]
