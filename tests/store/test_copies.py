"""A store on its way to another disk: a whole copy is the store, a partial one is found out."""

import os
import shutil
import tarfile

import pytest

from fkd.store import LabelStore, verify_store


def tar(source, target):
    with tarfile.open(target.with_suffix(".tar"), "w") as archive:
        archive.add(source, arcname=target.name)
    with tarfile.open(target.with_suffix(".tar")) as archive:
        archive.extractall(target.parent, filter="data")


def plain_bytes(source, target):
    """As a bucket keeps files: no times, no modes, in any order."""
    for file in sorted(source.rglob("*"), reverse=True):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o600)
            os.utime(copy, (0, 0))


@pytest.mark.parametrize("copy", [shutil.copytree, tar, plain_bytes])
def test_a_copy_is_the_same_store(lab, finished, tmp_path, copy):
    copy(finished, tmp_path / "copy")
    assert verify_store(tmp_path / "copy") == []
    assert LabelStore.open(tmp_path / "copy").root_hash == LabelStore.open(finished).root_hash


@pytest.mark.drill("G8", "copies of a store that lack a file, or the end of one", failing="silent")
@pytest.mark.parametrize("rest", ["missing", "empty", "half", "all but one byte"])
def test_a_copy_without_one_of_its_files_is_found(finished, tmp_path, rest, drill):
    files = [f for f in finished.rglob("*") if f.is_file() and f.name != "lock"]
    assert len(files) > 4
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(finished, copy)
        left = copy / file.relative_to(finished)
        size = left.stat().st_size
        if rest == "missing":
            left.unlink()
        else:
            os.truncate(left, {"empty": 0, "half": size // 2}.get(rest, size - 1))
        problems = verify_store(copy)
        assert problems
        assert any(left.name in str(problem) for problem in problems), problems
    drill.tried(len(files))
