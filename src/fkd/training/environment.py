"""What env.json remembers of a run besides its settings: code, libraries, machine, data."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

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
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": num_processes,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "data": data,
    }


def find_commit() -> str | None:
    """The git commit of this code, None where it was installed without its history."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
