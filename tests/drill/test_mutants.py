"""Mutants: without any one of these guards, a test fails.

`make test` checks that every guard is where it is said to be, and runs the tests of the first; the
drill runs them all. A mutant is a copy of the package with one expression changed.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One guard removed: `old` becomes `new` in `file`, and one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "files appear before their bytes are durable",
        "store/durable.py",
        "files.call(os.write, descriptor, rest) :]\n        files.call(os.fsync, descriptor)",
        "files.call(os.write, descriptor, rest) :]",
        "store/test_power_loss.py",
    ),
    Mutant(
        "names are not made durable",
        "store/files.py",
        "call(os.fsync, self.descriptor)",
        "pass",
        "store/test_power_loss.py",
    ),
    Mutant(
        "a short write is taken for a whole one",
        "store/durable.py",
        "        while rest:\n            rest = rest[files.call(os.write, descriptor, rest) :]",
        "        files.call(os.write, descriptor, rest)",
        "store/test_io_faults.py",
    ),
    Mutant(
        "a file that is there is written over",
        "store/durable.py",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL",
        "os.O_WRONLY | os.O_CREAT | os.O_TRUNC",
        "store/test_guards.py store/test_writer.py",
    ),
    Mutant(
        "other bytes in place of a shard are accepted",
        "store/durable.py",
        "    if not same:\n",
        "    if False:\n",
        "store/test_writer.py",
    ),
    Mutant(
        "writers do not lock",
        "store/locks.py",
        "            taken = durable.lock(descriptor, self._root / name, shared=shared)",
        "            taken = True",
        "store/test_locks.py",
    ),
    Mutant(
        "two writers at once",
        "store/durable.py",
        "fcntl.LOCK_SH if shared else fcntl.LOCK_EX",
        "fcntl.LOCK_SH",
        "store/test_locks.py",
    ),
    Mutant(
        "settings of a store are not compared",
        "store/writer.py",
        "stored.config_id != config.config_id",
        "False",
        "store/test_writer.py labeling/test_run.py",
    ),
    Mutant(
        "a finished store is not read once more",
        "store/writer.py",
        "sha256(shard.file_bytes) != entry.sha256",
        "False",
        "store/test_writer.py",
    ),
    Mutant(
        "verify does not compare whole shards",
        "store/verify.py",
        "sha256(shard.file_bytes) == entry.sha256",
        "True",
        "store/test_guards.py store/test_damage.py",
    ),
    Mutant(
        "rows are read without their checksums",
        "store/shard.py",
        "row_crc32(fixed[start:stop], parts) != shard.rows.stored_crc32(row)",
        "False",
        "store/test_damage.py",
    ),
    Mutant(
        "a shard's header is believed",
        "store/shard.py",
        "sha256(header) != self.entry.header_sha256",
        "False",
        "store/test_damage.py store/test_hostile.py",
    ),
    Mutant(
        "a shard may belong to another store",
        "store/shard.py",
        "metadata != metadata_of(config.config_id, self.entry.first_image)",
        "False",
        "store/test_damage.py store/test_hostile.py",
    ),
    Mutant(
        "shards with keys of other images are finished",
        "store/writer.py",
        "keys_digest(keys) != self.config.keys_sha256",
        "False",
        "store/test_writer.py",
    ),
    Mutant(
        "images of another data set are joined",
        "store/join.py",
        "not sound or not (allow_missing or len(rows) == store.num_images)",
        "False",
        "store/test_reader.py",
    ),
    Mutant(
        "the position of an image is taken for its row",
        "data/crop_sources.py",
        "self._store.read(self._rows[images], crops)",
        "self._store.read(images, crops)",
        "training/test_subsets.py",
    ),
    Mutant(
        "class ids beyond the classes are handed on",
        "store/content.py",
        '_require(not np.count_nonzero(unknown), "a class id is out of range")',
        "pass",
        "store/test_hostile.py",
    ),
    Mutant(
        "numbers that are no probabilities are handed on",
        "store/content.py",
        '_require(bool(sound), "a label value is no probability from 0 to 1")',
        "pass",
        "store/test_hostile.py store/test_guards.py",
    ),
    Mutant(
        "NaN of a teacher is stored",
        "models/single_teacher.py",
        "if bool(finite.all()):",
        "if True:",
        "models/test_teacher.py",
    ),
    Mutant(
        "outputs too large for their type are stored",
        "labeling/labels.py",
        "if bool(sound.all()):",
        "if True:",
        "labeling/test_failures.py",
    ),
    Mutant(
        "replaced images are trained on",
        "data/identity.py",
        "not is_labeled_file(facts, i, loaded.crc32, loaded.num_bytes)",
        "False",
        "data/test_batches.py",
    ),
    Mutant(
        "damaged checkpoints are loaded",
        "engine/checkpoint.py",
        'said.get("sha256") != sha256',
        "False",
        "engine/test_checkpoint.py",
    ),
    Mutant(
        "checkpoints appear before their bytes are durable",
        "engine/durable.py",
        "            os.fsync(file.fileno())\n",
        "",
        "engine/test_checkpoint.py",
    ),
    Mutant(
        "a loss that is NaN is trained on",
        "engine/recorder.py",
        "not math.isfinite(loss)",
        "False",
        "training/test_run.py",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_guard_is_where_it_is_said_to_be(mutant):
    assert (ROOT / "src" / "fkd" / mutant.file).read_text("utf-8").count(mutant.old) == 1
    for test in mutant.tests.split():
        assert (ROOT / "tests" / test).exists()


def exit_code(mutant: Mutant, folder: Path) -> int:
    """Of pytest, for the tests of a mutant."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "src" / "fkd" / mutant.file
    file.write_text(file.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")
    tests = [str(ROOT / "tests" / test) for test in mutant.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=900)
    return run.returncode


@pytest.mark.drill("G16", "guards removed, one at a time", failing="silent")
@pytest.mark.parametrize("share", range(4))
def test_without_a_guard_a_test_fails(share, drill, tmp_path):
    chosen = MUTANTS[share::4] if drill.scale is not None else MUTANTS[10:11] * (share == 0)
    survived = [m.name for i, m in enumerate(chosen) if exit_code(m, tmp_path / str(i)) != 1]
    drill.tried(len(chosen))
    assert not survived
