"""Folders of runs as `fkd train` leaves them, without training anything."""

import json
from pathlib import Path

import yaml

SETTINGS = {
    "out": "runs/a",
    "images": {"root": "photos", "format": "auto"},
    "student": {"name": "resnet18", "pretrained": False},
    "method": "vanilla",
    "store": None,
    "crops_per_image": 4,
    "epochs": 8,
    "optimizer": {"name": "sgd", "lr": 0.1},
    "crops": {"scale": [0.08, 1.0]},
    "seed": 0,
}
ENVIRONMENT = {
    "seed": 0,
    "commit": None,
    "versions": {"fkd": "0.1.0", "torch": "2.15.0"},
    "hardware": {"device": "cpu", "threads": 1},
    "data": {"images": {"num_images": 100, "keys_sha256": "ab"}, "store_root_hash": None},
}


def training_line(step, epoch, loss, **more) -> dict:
    return {
        "step": step,
        "epoch": epoch,
        "lr": 0.1,
        "loss": loss,
        "train_top1": None,
        "crops_per_second": 400.0,
        "seconds": 10.0 * epoch,
        **more,
    }


def lines_of(top1=(20.0, 50.0, 40.0)) -> list[dict]:
    """A training line and an evaluation after each of some epochs."""
    lines = []
    for epoch, value in enumerate(top1, 1):
        lines.append(training_line(10 * epoch, float(epoch), 3.0 / epoch))
        lines.append(
            {
                "step": 10 * epoch,
                "epoch": float(epoch),
                "val_top1": value,
                "val_top5": value + 30,
                "seconds": 10.0 * epoch + 1,
            }
        )
    return lines


def write_run(folder: Path, lines=None, *, finished=True, tail="", environment=None, **settings):
    """A run folder; `settings` replace members of SETTINGS, `tail` follows the last line."""
    folder.mkdir(parents=True)
    wanted = SETTINGS | {"out": str(folder)} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(wanted, sort_keys=False))
    about = ENVIRONMENT | (environment or {})
    (folder / "env.json").write_text(json.dumps(about))
    text = "".join(json.dumps(line) + "\n" for line in (lines_of() if lines is None else lines))
    (folder / "metrics.jsonl").write_text(text + tail)
    if finished:
        (folder / "model.safetensors").write_bytes(b"")
    return folder
