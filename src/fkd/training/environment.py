"""What env.json holds: the data, code, libraries and machine of a run's first start."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fkd.models.devices import describe_device

_PACKAGES = ("fkd", "torch", "torchvision", "timm", "numpy", "pillow", "accelerate")


def describe_environment(
    seed: int, num_processes: int, device: torch.device, data: dict[str, Any]
) -> dict[str, Any]:
    """The JSON object of env.json; its "data" identifies what the run is trained on."""
    return {
        "seed": seed,
        "commit": find_commit(),
        "versions": {"python": sys.version.split()[0]}
        | {name: version(name) for name in _PACKAGES},
        "hardware": {
            "device": describe_device(device),
            "processes": num_processes,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "data": data,
    }


def find_commit(file: str = __file__) -> str | None:
    """The git commit of the code in `file`; None where git does not track that file.

    An installed package may lie inside a user's repository, whose commit says nothing about it.
    """
    if _git("ls-files", "--error-unmatch", file, cwd=Path(file).parent) is None:
        return None
    return _git("rev-parse", "HEAD", cwd=Path(file).parent)


def _git(*arguments: str, cwd: Path) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
