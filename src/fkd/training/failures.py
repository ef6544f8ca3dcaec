"""What torch raises when memory, another process or torch.compile fails a run, as RunError."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fkd.errors import RunError
from fkd.models.compiling import explain_compiler_error

_AGAIN = "the same command resumes from the last checkpoint"
_LOST = re.compile("gloo|nccl|connection (closed|reset|refused) by peer", re.IGNORECASE)


@contextmanager
def explained_failures(num_processes: int) -> Iterator[None]:
    """Around everything that a run computes.

    Raises:
        RunError: memory does not suffice, another process of the run has ended, or torch.compile
            fails.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU has too little memory; {_AGAIN} on a larger one, or give another --out and a "
            "smaller batch_size or more accumulate_steps"
        ) from error
    except MemoryError as error:
        raise _too_little_memory() from error
    except RuntimeError as error:
        reason = explain_compiler_error(error)
        if reason is not None:
            raise RunError(
                f"torch.compile cannot compile a network of this run ({reason}); leave out "
                "--compile, and give another --out"
            ) from error
        if "DefaultCPUAllocator" in str(error):
            raise _too_little_memory() from error
        if num_processes == 1 or not _is_lost(error):
            raise
        raise RunError(
            f"another training process ended early; its own message says why, and {_AGAIN}"
        ) from error


def _too_little_memory() -> RunError:
    return RunError(
        f"too little memory; {_AGAIN} where there is more, or give another --out and a smaller "
        "batch_size or more accumulate_steps"
    )


def _is_lost(error: RuntimeError) -> bool:
    """Whether the connection to another process is lost."""
    return isinstance(error, torch.distributed.DistError) or bool(_LOST.search(str(error)))
