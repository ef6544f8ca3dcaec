"""Several processes with one command (torchrun): who works, and who prints what all of them say."""

import hashlib
import os
import sys
from datetime import timedelta

_PATIENCE = timedelta(seconds=2)
# What torchrun and `accelerate launch` set for each process; a library that finds them waits for
# the other processes.
_VARIABLES = [
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
]


def leave_to_main_process(*, shared: bool) -> None:
    """End this process if the verb does not share its work and this is not the main process.

    The main process then works as if it were alone.

    Args:
        shared: whether the processes share the work of the verb.
    """
    if shared or os.environ.get("WORLD_SIZE", "1") == "1":
        return
    if os.environ.get("RANK", "0") != "0":
        sys.exit(0)
    for name in _VARIABLES:
        os.environ.pop(name, None)


def is_first_to_say(message: str) -> bool:
    """Whether no other process of this run has printed the message; claims it.

    Under torchrun every process reads the same command line and finds the same mistake in it; they
    agree over the key-value store that torchrun keeps for them. True without torchrun, and where
    that store does not answer: an error printed twice is better than one that is not.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    import torch.distributed as dist  # takes seconds, which a single process need not wait

    digest = hashlib.sha256(message.encode()).hexdigest()
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=_PATIENCE)  # type: ignore[attr-defined]
        return bool(store.add(f"fkd/{restart}/{digest}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):
        return True
