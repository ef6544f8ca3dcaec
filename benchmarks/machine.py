"""The machine that a figure comes from: hardware and libraries, no names of hosts or paths."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

_PACKAGES = ("fkd", "torch", "torchvision", "timm", "numpy", "pillow")
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def describe_machine() -> dict[str, Any]:
    """What the figures depend on, as values of JSON.

    `load` is the load average of the last minute: what else was running when measuring began.
    """
    return {
        "cpu": f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
        "torch_threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "load": round(os.getloadavg()[0], 2),
    }


def summary(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; torch "
        f"{machine['packages']['torch']}, {machine['torch_threads']} threads; load at the start "
        f"{machine['load']}"
    )


def _cpu_model() -> str:
    """The name that Linux knows; elsewhere the kind of processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
