"""Files in a store's folder that are not the store's: harmless ones, and others."""

import pytest

from fkd.store import LabelStore, repair_store, verify_store
from fkd.store.strays import find_companions

COMPANIONS = [".DS_Store", "._manifest.json", "README.md", "LICENSE", "LICENSE.txt", "Thumbs.db"]
COMPANIONS += [".gitattributes", ".gitignore", ".cache/huggingface/x", ".huggingface/y", "@eaDir/z"]
COMPANIONS += ["shards/.DS_Store", "commits/.DS_Store", "shards/Thumbs.db", "__MACOSX/._lock"]


@pytest.mark.parametrize("name", COMPANIONS)
def test_files_that_come_with_any_folder_do_no_harm(lab, job, store, tmp_path, name):
    for folder in (store, tmp_path / "new"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert verify_store(store) == []
    inside = name.startswith(("shards/", "commits/"))
    assert find_companions(store) == [name if inside else name.partition("/")[0]]
    assert repair_store(store) == []
    job.run(store)
    job.run(tmp_path / "new")
    assert verify_store(tmp_path / "new") == []
    assert LabelStore.open(tmp_path / "new").root_hash == LabelStore.open(store).root_hash
    assert (store / name).exists()


@pytest.mark.parametrize("name", ["00001.safetensors", "shards/copy.safetensors", "notes.txt"])
def test_other_files_are_problems_that_repair_does_not_solve(store, name):
    (store / name).write_bytes(b"x")
    (problem,) = verify_store(store)
    assert (problem.file, problem.repairable) == (name, False)
    assert find_companions(store) == []
    assert repair_store(store) == []
