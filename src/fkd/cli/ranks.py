"""Several processes with one command (torchrun): who works and who has nothing to do."""

import os
import sys

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
