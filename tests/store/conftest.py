"""A teacher made of arithmetic: its labels are a function of image and crop number alone."""

import hashlib
import os
import shutil
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fkd.crops.records import CropRecords
from fkd.crops.sampling import sample_boxes
from fkd.labels.codec_names import parse_codec
from fkd.labels.encoded import Encoded
from fkd.randomness import stream_keys
from fkd.store import ImageFacts, LabeledCrops, StoreWriter, form_members, keys_digest
from fkd.store.config import StoreConfig, has_value_dtype
from fkd.store.geometry import grid_boxes

TEACHER = {"name": "arithmetic", "weights_sha256": "0" * 64, "temperature": 1.0}
JITTER = {"jitter": {"dtype": "f4", "shape": [4]}, "jitter_order": {"dtype": "u1", "shape": []}}
CANARIES = [{"crop": 1, "row": 0, "sha256": "f" * 64, "thumbnail": "AAAA"}]


# compact has stored boxes, recomputed has none; a map has cells instead of crops
FORMS = ("plain", "compact", "recomputed", "map")
DRAWN = {
    "seed": 0,
    "scale": [0.08, 1.0],
    "ratio": [0.75, 4 / 3],
    "flip_prob": 0.5,
    "generator": "philox4x32-10",
    "drawn_from": "content",
}


class LabelJob:
    """All that a labeling run needs, and the run itself."""

    def __init__(
        self,
        num_images: int = 20,
        num_crops: int = 3,
        num_classes: int = 10,
        codec: str = "ms:2",
        value_dtype: str = "u16",
        extras: dict | None = None,
        images_per_shard: int = 8,
        unreadable: bool = True,
        widest: int = 200,
        form: str = "plain",
        **others: object,
    ) -> None:
        self.keys = sorted(b"n%02d/caf\xc3\xa9 %05d.jpg" % (i % 3, i) for i in range(num_images))
        self.unreadable = unreadable
        self.widest = widest
        self.config = {
            "num_images": num_images,
            "num_crops": num_crops,
            "num_classes": num_classes,
            "class_names": [f"class {i}" for i in range(num_classes)],
            "codec": codec,
            "extras": extras or {},
            "images_per_shard": images_per_shard,
            "keys_sha256": keys_digest(self.keys),
            "teachers": [TEACHER],
            "crops": {"seed": 0, "scale": [0.08, 1.0]},
        }
        if form == "map":  # the cells are the crops, logits are kept, nothing else is replayed
            codec = f"top:{max(1, parse_codec(codec).num_ids(num_classes))}"
            value_dtype = "f16" if value_dtype == "u16" else value_dtype
            grid = [3, num_crops // 3] if num_crops % 3 == 0 else [1, num_crops]
            self.config |= {"grid": grid, "codec": codec}
            del self.config["extras"]
        members_of = "compact" if form == "recomputed" else form
        parsed = parse_codec(codec)
        if not has_value_dtype(members_of, parsed, num_classes):
            value_dtype = None
        self.config |= form_members(members_of, parsed, num_classes, value_dtype)
        if form == "compact":
            self.config["geometry"] = "stored"
        if form == "recomputed":
            self.config["crops"] = DRAWN
        self.config |= others
        if others.get("outputs") == "features":
            del self.config["class_names"]
        self.parsed = StoreConfig.parse(self.config, "the job")

    def shard(self, number: int) -> tuple[list[bytes], LabeledCrops]:
        """Keys and content of one shard."""
        first, stop = self.parsed.shard_range(number)
        return self.keys[first:stop], self.content(number)

    def content(self, number: int) -> LabeledCrops:
        """What the teacher says about one shard."""
        first, stop = self.parsed.shard_range(number)
        image = np.arange(first, stop)
        mixed = image[:, None] * 131 + np.arange(self.parsed.num_crops) * 17
        size = np.stack([60 + image % 50, self.widest - image % 40], 1).astype(np.uint32)
        facts = ImageFacts(
            crc32=(image * 2654435761 % 2**32).astype(np.uint32),
            num_bytes=(image + 1000).astype(np.uint64),
            size=size,
            status=(self.unreadable & (image % 11 == 3)).astype(np.uint8),
        )
        return LabeledCrops(
            facts,
            self._records(mixed, facts),
            Encoded(self._ids(mixed), self._values(mixed)),
        )

    def _records(self, mixed: np.ndarray, facts: ImageFacts) -> CropRecords:
        box = np.stack([mixed % 20, mixed % 30, 1 + mixed % 40, 1 + mixed % 90], -1)
        flip = mixed % 2 == 1
        if self.parsed.grid is not None:
            box, flip = grid_boxes(self.parsed.grid, facts.size), np.zeros_like(flip)
        if (crops := self.parsed.crops) is not None:
            numbers = np.broadcast_to(np.arange(self.parsed.num_crops), mixed.shape)
            files = zip(facts.crc32.tolist(), facts.num_bytes.tolist(), strict=True)
            keys = [struct.pack("<IQ", *file) for file in files]
            box, flip = sample_boxes(crops, stream_keys(crops.seed, keys), facts.size, numbers)
        extra = {}
        for e in self.parsed.extras:
            steps = np.arange(np.prod(e.shape, dtype=int)).reshape(e.shape)
            spread = mixed.reshape(*mixed.shape, *[1] * len(e.shape)) % 100 + steps
            extra[e.name] = spread.astype(e.dtype)
        return CropRecords(box, flip, extra)

    def _ids(self, mixed: np.ndarray) -> np.ndarray | None:
        k = self.parsed.num_ids
        return (mixed[..., None] + np.arange(k)) % self.parsed.num_classes if k else None

    def _values(self, mixed: np.ndarray) -> np.ndarray | None:
        v = self.parsed.num_values
        if not v:
            return None
        value = (1 - mixed[..., None] % 97 / 200) * 0.5 ** (1 + np.arange(v) % 30)
        if self.parsed.grid is not None:
            value = value * 20
        elif self.parsed.codec.encodes == "logits":
            value = value * 20 - 7
        return value.astype(np.float32)

    def run(
        self,
        path: Path,
        rank: int = 0,
        world_size: int = 1,
        environment: dict | None = None,
        canaries: list | None = None,
    ) -> str:
        """Label what is missing; process 0 waits for the others and returns the root hash."""
        with StoreWriter.open(path, self.config, rank=rank, world_size=world_size) as writer:
            for number in writer.pending():
                writer.commit(number, *self.shard(number))
            if rank > 0:
                return ""
            while writer.pending(0, 1):
                time.sleep(0.001)
            last = self.parsed.num_crops - 1
            given = canaries or [
                canary | {"crop": min(canary["crop"], last)} for canary in CANARIES
            ]
            return writer.finish(environment or {"numpy": "any"}, given)


def folder_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of all files but the lock."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != "lock"):
        digest.update(os.fsencode(file.relative_to(path)) + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child process that never returns into the test; the child's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's idle threads
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """The helpers of this folder, for tests and hypothesis alike."""
    return SimpleNamespace(
        Job=LabelJob, JITTER=JITTER, CANARIES=CANARIES, folder_digest=folder_digest, fork=fork
    )


@pytest.fixture(scope="session", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Every form that a store can have; tests that ask for it run once for each."""
    return request.param


@pytest.fixture(scope="session")
def job(form: str) -> LabelJob:
    """The job whose run is `finished`."""
    return LabelJob(extras=JITTER, form=form)


@pytest.fixture(scope="session")
def finished(job: LabelJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small store of 20 images in 3 shards, in every form; never changed."""
    path = tmp_path_factory.mktemp("finished") / "store"
    job.run(path)
    return path


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "store"))
