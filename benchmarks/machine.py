"""The machine that a figure comes from: hardware and libraries, no names of hosts or paths."""

import os
import platform
import resource
from importlib.metadata import version
from typing import Any

import torch

_PACKAGES = ("fkd", "torch", "torchvision", "timm", "numpy", "pillow")
_PROBE_BYTES, _PROBES = 64 << 20, 8  # glibc never keeps buffers above 32 MiB by itself
_FAULTS_OF_NEW_PAGES = 32  # 64 MiB in pages of 2 MiB; usual pages are far more


def describe_machine() -> dict[str, Any]:
    """What the figures depend on, as values of JSON.

    `load` is the load average of the last minute: what else was running when the measuring began.
    """
    return {
        "cpu": f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
        "torch_threads": torch.get_num_threads(),
        "keeps_freed_memory": keeps_freed_memory(),
        "environment": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
            if name in os.environ
        },
        "load": round(os.getloadavg()[0], 2),
    }


def summary(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    packages = machine["packages"]
    allocator = "kept" if machine["keeps_freed_memory"] else "given back"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; torch "
        f"{packages['torch']}, {machine['torch_threads']} threads; freed memory is {allocator} "
        f"on both sides; load at the start {machine['load']}"
    )


def keeps_freed_memory() -> bool:
    """Whether the allocator keeps large buffers that are freed (see `fkd.cli.process`).

    Found out by asking for the same buffer some times: new pages from the system fault when
    touched. A kept buffer is not always taken again at once, but soon.
    """
    faults = []
    for _ in range(_PROBES):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(_PROBE_BYTES, dtype=torch.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults[1:]) < _FAULTS_OF_NEW_PAGES


def _cpu_model() -> str:
    """The name that Linux knows; elsewhere the kind of processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
