"""Runs of `fkd train` in which something is raised. test_endings.py starts this in its own process.

Importing torch takes seconds and a fork takes none, so many runs cost one import. Every run is a
session of processes; what is left of it after it should have ended is counted and killed. A child
leaves through the ordinary exit of Python, which is where programs hang.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from fkd.cli import main
from fkd.cli.train import TrainingReporter
from fkd.data import workers
from fkd.data.batches import CropCutter
from fkd.engine.checkpoint import Checkpoints
from fkd.engine.state import TrainableModule
from fkd.errors import ImageError
from fkd.methods.vanilla import Vanilla

SECONDS = 30.0
AT_CALL = 3  # the call of a place, in its process, that raises
PLACES = {
    "worker": (CropCutter, "cut"),
    "forward": (TrainableModule, "forward"),
    "loss": (Vanilla, "loss"),
    "callback": (TrainingReporter, "advance"),
    "checkpoint": (Checkpoints, "save"),
}


def raise_it(kind: str) -> None:
    """What goes wrong, in whichever process calls this."""
    if kind.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, kind))
        return  # SIGINT and SIGTERM let the step finish; workers ignore them
    if kind == "exit":
        os._exit(3)
    errors = (ImageError, RuntimeError, MemoryError, KeyboardInterrupt)
    raise next(error for error in errors if error.__name__ == kind)("injected")


def break_place(place: str, kind: str) -> None:
    """Let the third call of a place in this process, or one that it forks, go wrong."""
    owner, name = PLACES[place]
    real, calls = getattr(owner, name), [0]

    def broken(*args, **kwargs):
        calls[0] += 1
        if calls[0] == AT_CALL:
            # A signal that is meant for the run reaches all its processes, as from a terminal.
            if kind in ("SIGINT", "SIGTERM") and workers.in_worker():
                os.kill(os.getppid(), getattr(signal, kind))
            raise_it(kind)
        return real(*args, **kwargs)

    setattr(owner, name, broken)


def start(case: dict, out: str, world: dict[str, str], rank: int) -> int:
    """One process of a run, as a shell or torchrun starts it; its process id."""
    process = os.fork()
    if process:
        return process
    os.environ.update(world)
    log = os.open(f"{out}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if rank == case.get("rank"):
        break_place(case["place"], case["kind"])
    options = {
        "method": "vanilla",
        "images.root": case["images"],
        "out": out,
        "student.name": "test_vit",
        "student.input_size": 32,
        "device": "cpu",
        "epochs": 20,
        "batch_size": 8,
        "num_workers": case["num_workers"],
        "workers": case["workers"],
        "checkpoint_seconds": 0,
    }
    main(["train", *(f"--{name}={value}" for name, value in options.items())])
    sys.exit(0)


def wait(processes: list[int], seconds: float) -> list[int | None]:
    """Exit codes, None of what still runs; a rank that fails ends the others, as torchrun does."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(processes) and time.monotonic() < deadline:
        for process in set(processes) - set(codes):
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                codes[process] = os.waitstatus_to_exitcode(status)
                if codes[process] != 0:
                    for other in set(processes) - set(codes):
                        os.kill(other, signal.SIGTERM)
        time.sleep(0.01)
    return [codes.get(process) for process in processes]


def session_of(process: int) -> int:
    """The session of a process, 0 of one that is gone or a zombie."""
    try:
        state, *numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(numbers[2])


def left_of(session: int) -> list[int]:
    """Processes of a session that still run."""
    processes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [p for p in processes if p != session and session_of(p) == session]


def supervise(case: dict, out: str) -> dict:
    """What a session reports of a run: exit codes, seconds, and how many processes were left."""
    world: list[dict[str, str]] = [{}]
    if case["ranks"] > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        size = str(case["ranks"])
        shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        numbers = [str(rank) for rank in range(case["ranks"])]
        world = [shared | {"RANK": number, "LOCAL_RANK": number} for number in numbers]
    started = time.monotonic()
    processes = [start(case, out, given, rank) for rank, given in enumerate(world)]
    codes = wait(processes, SECONDS)
    while left_of(os.getpid()) and time.monotonic() - started < SECONDS:
        time.sleep(0.05)
    left = left_of(os.getpid())
    for process in left:
        os.kill(process, signal.SIGKILL)
    return {"codes": codes, "seconds": time.monotonic() - started, "left": len(left)}


def run(case: dict, out: str) -> dict:
    """One run in a session of its own."""
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.setsid()
        os.write(writer, json.dumps(supervise(case, out)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        report = json.loads(pipe.read())
    os.waitpid(supervisor, 0)
    logs = [Path(f"{out}.{rank}.log").read_text() for rank in range(case["ranks"])]
    return report | {"logs": logs}


def run_twice(case: dict, out: str) -> dict:
    """A run that ends too early and, where the case asks for it, the same command again."""
    first = run(case, out)
    if not case.get("again"):
        return first
    whole = {name: case[name] for name in ("images", "ranks", "num_workers", "workers")}
    again = run(whole, out)
    reference = run(whole, f"{out}-reference")
    weights = [Path(folder) / "model.safetensors" for folder in (out, f"{out}-reference")]
    equal = all(path.exists() for path in weights) and len({p.read_bytes() for p in weights}) == 1
    return first | {"again": again["codes"] + reference["codes"], "equal": equal}


if __name__ == "__main__":
    cases = json.loads(sys.stdin.read())
    reports = [run_twice(case, f"{sys.argv[1]}/{number}") for number, case in enumerate(cases)]
    print(json.dumps(reports))
