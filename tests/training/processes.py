"""Runs in processes of their own, alone or together, as torchrun would start them."""

import os
import socket
import traceback

from fkd.training.run import train


def fork(config, rank=0, world_size=1, port=0) -> int:
    """Run `train` in a forked process, as torchrun would start it; its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        train(config)
        code = 0
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def fork_together(config, world_size) -> list[int]:
    """Processes of one run that share every batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork(config, rank, world_size, port) for rank in range(world_size)]


def exit_codes(processes) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def train_together(config, world_size):
    assert exit_codes(fork_together(config, world_size)) == [0] * world_size
