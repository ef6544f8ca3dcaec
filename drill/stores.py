"""Stores from elsewhere: changed in any place, with checksums that fit, then used.

    python -m drill.stores --examples 10000 --seed 0

A change is made where a parser would look: a member of the manifest, the config, a commit or the
header of a shard, or the bytes of one value of a column. All checksums are computed anew, so only
what is checked besides them stands between the change and its use: open, read, verify, convert,
view, the data set and the canaries. Each may raise an `FKDError` and nothing else, within a limit
of memory and time, and may open no file outside the folders of the drill. What is read must be
probabilities of crops inside their images.

Examples come in blocks of `BLOCK`; block i of seed S is that of hypothesis with seed S + i. Each is
printed when it is done, so a drill that was stopped resumes with `--seed`.
"""

import argparse
import copy
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from drill.drafts import Draft, columns, overwrite, paths, put
from drill.golden import make_images, make_stores
from fkd.data.canary import check_canaries
from fkd.data.folder import FolderSource
from fkd.data.multicrop import MultiCropDataset
from fkd.errors import FKDError
from fkd.store import LabelStore, convert_store, verify_store
from fkd.store.layout import CHECKSUM
from fkd.viewing.page import PageConfig, render_page

BLOCK = 100
SECONDS = 20  # for one use of a store
MEMORY = 2 << 30  # bytes, beyond what the process has at the start
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 255, 256, 10**5, 10**8, 2**31, 2**32, 2**63, 2**64, 10**30),
    *(0.5, 5.0, -0.0, 1e-300, 1e308, "", "x", "\x1b[2J", "..", "/etc/passwd", "a" * 5000, "0" * 64),
    *(
        "hard",
        "full",
        "ms:3",
        "top:2",
        "top:2*2",
        "ms:9999999999999999999",
        "u16",
        "f16",
        "f32",
        "i8",
    ),
    *("plain", "compact", "map", "stored", "recomputed", [], {}, [None], [0], {"x": None}, [[]]),
]
_MANY = 100_000  # times that a member is repeated
PATTERNS = (b"\0", b"\xff", b"\x7f", b"\x80", b"\1", b"\x7f\xc0", b"\0\0\xc0\x7f", b"\0\0\x80\x7f")


def change_json(data: st.DataObject, draft: Draft) -> str:
    """Change one member; says which."""
    parts = draft.parts()
    name = data.draw(st.sampled_from(sorted(parts)))
    places = list(paths(parts[name]))
    if not places:
        return "nothing"
    path = data.draw(st.sampled_from(places))
    odd = st.sampled_from(ODD_VALUES) | st.integers(-(2**70), 2**70)
    value = data.draw(odd | st.sampled_from([..., (0,), (2,), (_MANY,)]))
    put(parts[name], path, value)
    return f"{name} {path} = {str(value)[:60]}"


def change_value(data: st.DataObject, draft: Draft) -> str:
    """Overwrite one value of a column, or many, in one shard; says which."""
    number = data.draw(st.integers(0, len(draft.data) - 1))
    placed = columns(draft, number)
    names = sorted(n for n, p in placed.items() if n != CHECKSUM and p.stop > p.start)
    name = data.draw(st.sampled_from(names))
    column = placed[name]
    item = data.draw(st.integers(0, (column.stop - column.start) // column.dtype.itemsize - 1))
    pattern = data.draw(st.sampled_from(PATTERNS) | st.binary(min_size=1, max_size=8))
    many = data.draw(st.sampled_from([1, 1, 1, 8, 10**6]))
    overwrite(draft, number, name, item, pattern, many)
    return f"shard {number} {name}[{item}:+{many}] = {pattern.hex()}"


def uses(store: Path, out: Path, images: FolderSource) -> dict[str, Callable[[], object]]:
    """What is done with a store, by name."""

    def view() -> None:
        render_page(LabelStore.open(store), images, PageConfig(num_images=3, crops_per_image=2))

    def data_set() -> None:
        labels = LabelStore.open(store)
        dataset = MultiCropDataset(images, labels, crops_per_image=min(2, labels.num_crops), size=8)
        for epoch in range(2):
            dataset.set_epoch(epoch)
            for index in range(len(dataset)):
                targets = dataset[index][1]
                if labels.is_of_classes:
                    require_probabilities(targets.dense())

    return {
        "read": lambda: read_all(LabelStore.open(store)),
        "verify": lambda: verify_store(store),
        "convert to compact": lambda: convert_store(store, out / "compact", form="compact"),
        "convert to plain": lambda: convert_store(store, out / "plain", form="plain", num_crops=2),
        "convert to hard": lambda: convert_store(store, out / "hard", form="plain", codec="hard"),
        "view": view,
        "data set": data_set,
        "canaries": lambda: check_canaries(LabelStore.open(store), images),
    }


def read_all(store: LabelStore) -> None:
    """Everything that a program can ask of a store, for at most 100 images."""
    repr(store)
    keys = [key for key, _ in zip(store, range(100), strict=False)]
    store.keys(range(min(store.num_images, 100)))
    labeled = [key for key in keys if key in store and store.labeled(store.rows([key])).all()]
    for key in labeled:
        image = store[key]
        box, (height, width) = image.records.box, image.size
        if (box < 0).any() or (box[:, 2:] < 1).any():
            raise AssertionError("a box is empty or negative")
        if (box[:, 0] + box[:, 2] > height).any() or (box[:, 1] + box[:, 3] > width).any():
            raise AssertionError("a box leaves its image")
        require_probabilities(image.decode())


def require_probabilities(labels: Any) -> None:
    """Labels (n, C) that are finite, not negative, and sum to 1."""
    sound = bool(labels.isfinite().all()) and bool((labels >= -1e-5).all())
    if not sound or bool(((labels.sum(1) - 1).abs() > 1e-3).any()):
        raise AssertionError(f"no probabilities: {labels[:1]}")


@dataclass
class Findings:
    """What ended in something else than an `FKDError`, each kind once, with an example."""

    examples: int = 0
    errors: int = 0
    kinds: dict[str, str] = field(default_factory=dict)

    def note(self, use: str, error: BaseException, change: str) -> None:
        """Keep an error by its type and the place in this package where it arose."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "fkd" in f.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
        self.kinds.setdefault(f"{use}: {type(error).__name__} at {where}: {error}"[:300], change)


def try_store(store: Path, out: Path, images: FolderSource, change: str, found: Findings) -> None:
    """Use a store in every way."""
    for use, action in uses(store, out, images).items():
        try:
            with deadline(SECONDS):
                action()
        except FKDError:
            found.errors += 1
        except Exception as error:
            found.note(use, error, change)


class Watch:
    """Notes every file that is opened outside some folders, while it is on."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.opened: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or self.allowed is None or isinstance(arguments[0], int):
            return
        path = os.path.normpath(os.fsdecode(arguments[0]))
        if os.path.isabs(path) and not path.startswith(self.allowed):
            self.opened.append(path)

    @contextmanager
    def on(self, *folders: str) -> Iterator[None]:
        """Allow these folders, those of Python and of open descriptors."""
        python = (sys.prefix, sys.base_prefix, *(p for p in sys.path if p))
        self.allowed = (
            *folders,
            *python,
            "/dev/fd/",
            "/dev/urandom",
            str(Path(__file__).parents[1]),
        )
        try:
            yield
        finally:
            self.allowed = None


@contextmanager
def limits() -> Iterator[None]:
    """Bounded memory while it lasts."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """TimeoutError in the code that is running when the time is over."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again: a callback may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_WATCH: list[Watch] = []  # an audit hook stays for as long as the process


def run_block(examples: int, seed: int, folder: Path) -> Findings:
    """Try so many changed stores; a function of its arguments."""
    images = make_images(folder / "images")
    stores = make_stores(folder / "golden", images)
    drafts = {kind: Draft.read(path) for kind, path in stores.items()}
    found = Findings()
    if not _WATCH:
        _WATCH.append(Watch())
    watch = _WATCH[0]
    watch.opened.clear()

    @with_seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def block(data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from(sorted(drafts)))
        draft, changes = copy.deepcopy(drafts[kind]), [kind]
        if data.draw(st.booleans()):
            changes.append(change_value(data, draft))
        while len(changes) == 1 or data.draw(st.integers(0, 2)) == 0:
            changes.append(change_json(data, draft))
            if changes[-1].endswith(f"({_MANY},)"):
                break  # a further change would be in all of them
        store, out = folder / "store", folder / "out"
        shutil.copytree(stores[kind], store)
        try:
            draft.write(store)
            found.examples += 1
            try_store(store, out, images, "; ".join(changes), found)
        finally:
            for path in (store, out):
                shutil.rmtree(path, ignore_errors=True)

    with limits(), watch.on(str(folder)):
        block()
    for path in sorted(set(watch.opened)):
        found.kinds[f"opened outside: {path}"] = ""
    return found


def main() -> int:
    """Try blocks of examples; the exit code is 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m drill.stores", description=__doc__)
    parser.add_argument("--examples", type=int, default=BLOCK)
    parser.add_argument("--seed", type=int, default=0, help="of the first block")
    given_options = parser.parse_args()
    kinds: dict[str, str] = {}
    for number, first in enumerate(range(0, given_options.examples, BLOCK)):
        seed, count = given_options.seed + number, min(BLOCK, given_options.examples - first)
        with tempfile.TemporaryDirectory() as folder:
            found = run_block(count, seed, Path(folder))
        print(f"seed {seed}: {found.examples} stores, {found.errors} refusals", flush=True)
        for kind, change in found.kinds.items():
            if kinds.setdefault(kind, change) is change:
                print(f"  {kind}\n    {change}", flush=True)
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
