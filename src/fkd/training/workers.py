"""How many threads or processes load batches, where the user does not say."""

import os
from typing import Literal, Protocol

import torch

from fkd.data.batches import Workers

_WORKERS, _WORKERS_BESIDE_A_GPU = 2, 8
_MOST_THREADS = 4  # more wait for Python's lock


class LoaderSettings(Protocol):
    """The settings of a run that loads batches."""

    @property
    def device(self) -> str | None:
        """Where it trains."""

    @property
    def num_workers(self) -> int | None:
        """As the user gave it."""

    @property
    def workers(self) -> Literal["auto", "threads", "processes"]:
        """As the user gave it."""


def count_workers(config: LoaderSettings) -> int:
    """How many threads or processes load batches."""
    if config.num_workers is not None:
        return config.num_workers
    return min(_WORKERS_BESIDE_A_GPU if on_gpu(config) else _WORKERS, count_usable_cores())


def count_usable_cores() -> int:
    """The cores that this process may run on, fewer than the machine's in a batch job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kind_of_workers(config: LoaderSettings) -> Workers:
    """Threads or processes."""
    if config.workers != "auto":
        return config.workers
    return "threads" if count_workers(config) <= _MOST_THREADS else "processes"


def on_gpu(config: LoaderSettings) -> bool:
    """Whether the student is trained on a GPU."""
    named = config.device is None or config.device.partition(":")[0] == "cuda"
    return named and torch.cuda.is_available()
