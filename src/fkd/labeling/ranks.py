"""Which of several labeling processes this one is, and the few values they exchange.

`torchrun` starts the processes and numbers them by environment variables. While they work they
share nothing but the store's folder; they exchange values only before the first shard and after the
last, over gloo, so no process waits for another in between. When a process dies, the connections of
those that wait for it break, and they end as well.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from fkd.errors import RunError

T = TypeVar("T")
_TIMEOUT = timedelta(days=30)  # a process may wait this long for slower ones


@dataclass(frozen=True)
class World:
    """This process among those of a run.

    Attributes:
        rank: its number; process 0 leads.
        size: how many there are.
        local_rank: its number on this machine, which picks the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _group: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; returns when every process has called.

        Raises:
            RunError: another process has ended.
        """
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        try:
            dist.all_gather_object(values, value, group=self._group)
        except RuntimeError as error:
            raise RunError(
                "another labeling process ended early; its own message says why, and the same "
                "command resumes with the shards that are missing"
            ) from error
        return values


@contextmanager
def join_world() -> Iterator[World]:
    """This process's world: from torchrun's environment variables, or alone without them.

    Raises:
        RunError: the other processes cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    ours = not dist.is_initialized()
    try:
        if ours:
            dist.init_process_group("gloo", timeout=_TIMEOUT)
        group: Any = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {size} labeling processes cannot find each other: {error}") from error
    try:
        yield World(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")), group)
    finally:
        if ours:
            dist.destroy_process_group()
