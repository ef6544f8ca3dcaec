"""After a power cut a committed shard is there, whatever the disk did with unsynced bytes.

The system calls of a run are recorded; for each moment the folder is rebuilt as a disk may hold
it then: unsynced data lost, zeroed or kept, unsynced names lost or kept in any combination.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from fkd.errors import StoreError
from fkd.store import StoreWriter, files


class Disk:
    """What is certain to survive, and what may survive, at one moment."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}  # by inode
        self.synced: dict[int, bytes] = {}
        self.names: dict[str, int | None] = {}  # path to inode; None is a folder
        self.unsynced: dict[str, list[tuple[str, int | None, bool]]] = {}  # changes by folder

    def change(self, path: str, inode: int | None, there: bool) -> None:
        self.unsynced.setdefault(os.path.dirname(path), []).append((path, inode, there))

    def sync_folder(self, folder: str) -> None:
        for path, inode, there in self.unsynced.pop(folder, []):
            self._apply(self.names, path, inode, there)

    @staticmethod
    def _apply(names, path, inode, there) -> None:
        if there:
            names[path] = inode
        else:
            names.pop(path, None)

    def survivors(self, keep_name, keep_data) -> dict[str, bytes | None]:
        """The files after a cut, given which unsynced changes and data the disk kept."""
        names = dict(self.names)
        for changes in self.unsynced.values():
            for change in changes:
                if keep_name():
                    self._apply(names, *change)
        found = {}
        for path, inode in names.items():
            if os.path.dirname(path) not in names and os.path.dirname(path) != "":
                continue  # its folder is gone
            found[path] = None if inode is None else self._content(inode, keep_data)
        return found

    def _content(self, inode: int, keep_data) -> bytes:
        data, synced = self.data[inode], self.synced.get(inode)
        if synced == data:
            return data
        return {"kept": data, "lost": synced or b"", "zeroed": bytes(len(data))}[keep_data()]


class Recorder:
    """Replaces `files.call` and notes what the calls do to names and data below `root`."""

    def __init__(self, root: Path, honest: bool) -> None:
        self.root, self.honest, self.events, self.inodes = root, honest, [], {}

    def __call__(self, function, *args, **kwargs):
        event = self._event(function, args, kwargs)
        result = function(*args, **kwargs)
        if event is not None:
            if event[0] == "create":
                self.inodes[self._inode(result)] = event[1]
            self.events.append(event if event[0] != "create" else (*event, self._inode(result)))
        return result

    def _event(self, function, args, kwargs):
        if function is os.open and args[1] & os.O_EXCL:
            return ("create", self._path(args[0], kwargs["dir_fd"]))
        if function is os.write:
            return ("write", self._inode(args[0]), bytes(args[1]))
        if function is os.fsync and self.honest:
            path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
            if path.is_dir():
                return ("sync folder", self._relative(path)) if path != self.root.parent else None
            return ("sync data", self._inode(args[0]))
        if function is os.link:
            directory = kwargs["src_dir_fd"]
            return ("link", self._path(args[0], directory), self._path(args[1], directory))
        if function is os.unlink:
            return ("unlink", self._path(args[0], kwargs["dir_fd"]))
        if function is os.mkdir and args[0] != self.root:
            return ("mkdir", self._relative(Path(args[0])))
        return None

    def _path(self, leaf, directory) -> str:
        return self._relative(Path(os.readlink(f"/proc/self/fd/{directory}"), leaf))

    def _relative(self, path: Path) -> str:
        relative = str(path.relative_to(self.root))
        return "" if relative == "." else relative

    @staticmethod
    def _inode(descriptor: int) -> int:
        return os.fstat(descriptor).st_ino


def replay(events):
    """The disk after every event, and which shards were acknowledged until then."""
    disk, inode_of, acknowledged = Disk(), {}, []
    for kind, *rest in events:
        if kind == "create":
            path, inode = rest
            inode_of[path] = inode
            disk.data[inode] = b""
            disk.synced.pop(inode, None)
            disk.change(path, inode, True)
        elif kind == "write":
            disk.data[rest[0]] += rest[1]
        elif kind == "sync data":
            disk.synced[rest[0]] = disk.data[rest[0]]
        elif kind == "sync folder":
            disk.sync_folder(rest[0])
        elif kind == "link":
            inode_of[rest[1]] = inode_of[rest[0]]
            disk.change(rest[1], inode_of[rest[0]], True)
        elif kind == "unlink":
            disk.change(rest[0], inode_of[rest[0]], False)
        elif kind == "mkdir":
            disk.change(rest[0], None, True)
        elif kind == "acknowledged":
            acknowledged.append(rest[0])
        yield disk, list(acknowledged)


def crash_states(events, mixtures=8):
    """Distinct folders after a cut at any moment: all or nothing unsynced kept, and mixtures."""
    draw, seen = random.Random(0), set()
    for disk, acknowledged in replay(events):
        choices = [(lambda: False, lambda: "lost")]
        choices += [(lambda: True, lambda k=k: k) for k in ("kept", "lost", "zeroed")]
        choices += [
            (lambda: draw.random() < 0.5, lambda: draw.choice(["kept", "lost", "zeroed"]))
        ] * mixtures
        for keep_name, keep_data in choices:
            state = disk.survivors(keep_name, keep_data)
            identity = (tuple(sorted(state.items())), tuple(acknowledged))
            if identity not in seen:
                seen.add(identity)
                yield state, acknowledged


def build(path: Path, state) -> None:
    path.mkdir()
    for name in sorted(state, key=lambda name: name.count("/")):
        if state[name] is None:
            (path / name).mkdir()
    for name, data in state.items():
        if data is not None:
            (path / name).write_bytes(data)


@pytest.fixture(scope="module")
def job(lab):
    return lab.Job(num_images=6, images_per_shard=2)


def record(job, path, honest=True):
    recorder = Recorder(path, honest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "call", recorder)
        with StoreWriter.open(path, job.config) as writer:
            for number in writer.pending():
                writer.commit(number, *job.shard(number))
                recorder.events.append(("acknowledged", number))
            writer.finish({"numpy": "any"})
            recorder.events.append(("acknowledged", "manifest.json"))
    return recorder.events


def run_again(job, path) -> None:
    with StoreWriter.open(path, job.config) as writer:
        for number in writer.pending():
            writer.commit(number, *job.shard(number))
        writer.finish({"numpy": "any"})


def files_of(acknowledged) -> list[str]:
    names = [n for n in acknowledged if isinstance(n, str)]
    numbers = [n for n in acknowledged if isinstance(n, int)]
    return [
        *names,
        *(f"shards/{n:05d}.safetensors" for n in numbers),
        *(f"commits/{n:05d}.json" for n in numbers),
    ]


def jobs_of(lab, count):
    """Labeling runs of many sizes and forms; a few dozen states of a disk come from each."""
    forms = ("plain", "compact", "recomputed", "map")
    for number in range(count):
        size, shard = 20 + number % 7, 8 - number % 5
        yield lab.Job(num_images=size, images_per_shard=shard, form=forms[number % 4])


@pytest.mark.drill("G3", "states of a disk after a power cut", failing="lost")
def test_what_was_acknowledged_survives_and_the_rest_is_made_again(lab, drill, tmp_path):
    tried = 0
    for number, job in enumerate(jobs_of(lab, drill.times(1, goal=110))):
        oracle = tmp_path / f"oracle{number}"
        events = record(job, oracle)
        expected = lab.folder_digest(oracle)
        for state, acknowledged in crash_states(events):
            for name in files_of(acknowledged):
                assert state.get(name) == (oracle / name).read_bytes(), name
            path = tmp_path / str(tried)
            build(path, state)
            run_again(job, path)
            assert lab.folder_digest(path) == expected
            tried += 1
            shutil.rmtree(path)
    assert tried > 40
    drill.tried(tried)


def test_without_fsync_the_same_test_fails(lab, job, tmp_path):
    """Else the test above would see nothing."""
    oracle = tmp_path / "oracle"
    events = record(job, oracle, honest=False)
    expected, lost, broken = lab.folder_digest(oracle), 0, 0
    for number, (state, acknowledged) in enumerate(crash_states(events)):
        if number % 10:
            continue
        lost += any(
            state.get(name) != (oracle / name).read_bytes() for name in files_of(acknowledged)
        )
        path = tmp_path / str(number)
        build(path, state)
        try:
            run_again(job, path)
            broken += lab.folder_digest(path) != expected
        except StoreError:
            broken += 1
    assert lost > 3
    assert broken > 3
