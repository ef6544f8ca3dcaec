"""The scripts of the pages, made small, run in this process or in several that train together."""

import hashlib
import json
import multiprocessing
import os
import re
import socket
import sys
from pathlib import Path

import torch

from fkd.store import LabelStore

DOCS = Path(__file__).parents[2] / "docs"

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["fkd.training.run"])


def script_of(page: str, replacements: dict[str, str], number: int = 0) -> str:
    """The script of a page with some of its words replaced, each of which it has exactly once."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    code = blocks[number]
    for printed, small in replacements.items():
        assert code.count(printed) == 1, printed
        code = code.replace(printed, small)
    return code


def run(code: str, folder: Path, model: str = "model") -> dict:
    """Run a script in a folder; what it read and learned.

    Returns:
        {"read": [[row, crop], ...] in order, "weights": hash of the parameters of the variable
        `model` at the end}. Statistics of batch norms are each process's own.
    """
    read, seen = LabelStore.read, []

    def record(self, rows, crops=None):
        if crops is not None:
            seen.extend([int(r), int(n)] for r, ns in zip(rows, crops, strict=True) for n in ns)
        return read(self, rows, crops)

    before = os.getcwd()
    os.chdir(folder)
    LabelStore.read = record
    space = {"__name__": "script"}
    try:
        exec(compile(code, "script.py", "exec"), space)
    finally:
        LabelStore.read = read
        os.chdir(before)
    digest = hashlib.sha256()
    for tensor in eval(model, space).parameters():
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return {"read": seen, "weights": digest.hexdigest()}


def run_together(code: str, folder: Path, model: str = "model", world_size: int = 2) -> list[dict]:
    """The same in processes that find each other as under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        _SERVER.Process(target=_run_rank, args=(code, str(folder), model, rank, world_size, port))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world_size
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


def _run_rank(code, folder, model, rank, world_size, port) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "ACCELERATE_USE_CPU": "true",
    }
    sys.argv = ["script.py"]
    result = run(code, Path(folder), model)
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
