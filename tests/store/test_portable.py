"""Reading where the system opens no folders and has no links of descriptors, as Windows."""

import importlib
import os
import shutil

import numpy as np
import pytest

from fkd.errors import DamagedStore, FormatError
from fkd.store import LabelStore, files, verify_store


@pytest.fixture
def windows(monkeypatch):
    """An `os` that refuses what that of Windows refuses."""
    real_open, real_stat, real_list = os.open, os.stat, os.listdir
    real_exists = os.path.exists

    def without_folders(path, *args, dir_fd=None, **kwargs):
        if dir_fd is not None:
            raise NotImplementedError("dir_fd unavailable on this platform")
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args, **kwargs)

    def stat(path, *, dir_fd=None, follow_symlinks=True):
        if dir_fd is not None:
            raise NotImplementedError("dir_fd unavailable on this platform")
        return real_stat(path, follow_symlinks=follow_symlinks)

    def listdir(path="."):
        if isinstance(path, int):
            raise TypeError("listdir: path should be string, bytes, os.PathLike or None, not int")
        return real_list(path)

    with monkeypatch.context() as patch:
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY"):
            patch.delattr(os, name)
        patch.setattr(os, "supports_dir_fd", set())
        patch.setattr(os, "open", without_folders)
        patch.setattr(os, "stat", stat)
        patch.setattr(os, "listdir", listdir)
        patch.setattr(
            os.path, "exists", lambda p: not str(p).startswith("/dev/fd") and real_exists(p)
        )
        importlib.reload(files)
        yield
    importlib.reload(files)


def test_a_store_is_read_and_verified(job, finished, windows):
    store = LabelStore.open(finished)
    assert store.keys() == job.keys
    rows = np.flatnonzero(store.labeled(np.arange(store.num_images)))
    assert len(store.read(rows).records) == len(rows)
    assert verify_store(finished) == []


@pytest.mark.parametrize("name", ["manifest.json", "shards/00000.safetensors"])
def test_what_is_missing_or_no_plain_file_is_refused(store, tmp_path, windows, name):
    shutil.move(store / name, tmp_path / "moved")
    assert verify_store(store)
    (store / name).mkdir()
    with pytest.raises(FormatError, match="plain files only"):
        LabelStore.open(store).images([0])
    (store / name).rmdir()
    (store / name).symlink_to(tmp_path / "moved")
    assert verify_store(store) == []


@pytest.mark.parametrize("folder", ["shards", "commits"])
def test_a_linked_folder_is_refused(store, tmp_path, windows, folder):
    shutil.move(store / folder, tmp_path / folder)
    (store / folder).symlink_to(tmp_path / folder)
    with pytest.raises((FormatError, DamagedStore), match="link"):
        LabelStore.open(store).images([0])
