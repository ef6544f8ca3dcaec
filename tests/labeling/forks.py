"""Labels in forked children and kills them. test_kills.py starts this in a process of its own.

Importing torch takes seconds and a fork takes none, so many kills cost one import. Nothing here
computes with torch before it forks: a fork would not take torch's threads along.
"""

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from fkd.data.sources import ImagesConfig
from fkd.errors import FKDError
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codecs import MarginalSmoothing
from fkd.models.teacher import TeacherConfig
from fkd.store import verify_store


def start(config: LabelConfig, environment: dict[str, str] | None = None) -> int:
    """Label in a child; its exit code is 0, 2 after an error of ours, 1 after any other."""
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(environment or {})
    code = 1
    try:
        label(config)
        code = 0
    except FKDError as error:
        print(error, file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def wait(pid: int, seconds: float = 60.0) -> int | None:
    """The exit code of a child (-9 if it was killed), None if it still runs after that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def files_of(store: str) -> dict[str, bytes]:
    paths = [p for p in Path(store).rglob("*") if p.is_file() and p.name != "lock"]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def kill_until_done(config: LabelConfig, longest: float, draw: random.Random) -> int:
    """Start, kill after a random time, start again, until a run survives; returns the kills."""
    kills = 0
    while True:
        pid = start(config)
        code = wait(pid, draw.uniform(0.0, longest))
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = wait(pid)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, code
        kills += 1
        if (Path(config.out) / "config.json").exists():
            assert verify_store(config.out, partial=True) == []


def start_ranks(config: LabelConfig, count: int) -> list[int]:
    """What torchrun does, on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [start(config, world | rank) for rank in ranks]


def lose_a_rank(config: LabelConfig) -> tuple[int | None, float]:
    """Kill process 1 of 2 in mid-work: exit code of process 0, and how long it took to notice."""
    leader, helper = start_ranks(config, 2)
    commits = Path(config.out) / "commits"
    while not (commits.is_dir() and any(commits.iterdir())):
        time.sleep(0.001)
    os.kill(helper, signal.SIGSTOP)
    time.sleep(1.0)  # the leader finishes its own shards and waits
    assert wait(leader, 0.01) is None
    os.kill(helper, signal.SIGKILL)
    started = time.monotonic()
    code = wait(leader)
    wait(helper)
    return code, time.monotonic() - started


def main(root: str, checkpoint: str, folder: str, num_trials: int) -> None:
    def settings(name: str) -> LabelConfig:
        return LabelConfig(
            images=ImagesConfig(root=root),
            teacher=TeacherConfig("test_efficientnet", checkpoint=checkpoint, input_size=32),
            out=f"{folder}/{name}",
            num_crops=5,
            codec=MarginalSmoothing(3),
            images_per_shard=1,
            batch_size=8,
            spot_checks=8,
        )

    started = time.monotonic()
    assert wait(start(settings("whole"))) == 0
    longest = 0.8 * (time.monotonic() - started)
    whole = files_of(f"{folder}/whole")
    draw = random.Random(0)
    kills = same = 0
    for trial in range(num_trials):
        kills += kill_until_done(settings(str(trial)), longest, draw)
        same += files_of(f"{folder}/{trial}") == whole
    code, seconds = lose_a_rank(settings("ranks"))
    resumed = [wait(pid) for pid in start_ranks(settings("ranks"), 2)]
    report = {
        "kills": kills,
        "trials_with_the_same_bytes": same,
        "leader_left_alone": {"exit_code": code, "seconds": seconds},
        "resumed": resumed,
        "ranks_wrote_the_same_bytes": files_of(f"{folder}/ranks") == whole,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
