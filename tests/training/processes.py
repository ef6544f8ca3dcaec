"""Runs that are stopped, and runs in processes of their own, as torchrun would start them."""

import multiprocessing
import os
import socket
from multiprocessing.process import BaseProcess

import torch

from fkd.engine.logging import Progress
from fkd.training.config import TrainConfig
from fkd.training.run import train

# Not forked from this process, which may have computed something: torch's threads do not survive a
# fork. The server has only imported torch, which takes seconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["fkd.training.run"])


def start(config, rank=0, world_size=1, port=0) -> BaseProcess:
    """Run `train` in another process, as torchrun would start it."""
    arguments = (config, rank, world_size, port, torch.get_num_threads())
    process = _SERVER.Process(target=_train, args=arguments)
    process.start()
    return process


def _train(config: TrainConfig, rank: int, world_size: int, port: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(config)


def start_together(config, world_size) -> list[BaseProcess]:
    """Processes of one run that share every batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(config, rank, world_size, port) for rank in range(world_size)]


def exit_codes(processes) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def train_together(config, world_size):
    assert exit_codes(start_together(config, world_size)) == [0] * world_size


class Stop(Exception):
    """Ends a run like a kill: nothing gets a chance to be saved."""


class StopAt(Progress):
    """A progress that ends the run in the middle of a step."""

    def __init__(self, step):
        self.step = step
        self.began = None

    def begin(self, step, num_steps, description):
        self.began = step

    def advance(self, step, metrics):
        if step == self.step:
            raise Stop

    def evaluated(self, metrics):
        pass
