"""Kernels are compiled from these sources or not used, and sum up as zlib does."""

import ctypes
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from fkd import native
from fkd.native import building

SOURCES = Path(native.__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
needs_kernels = pytest.mark.skipif(native.library() is None, reason="needs compiled kernels")


@pytest.fixture
def folder(tmp_path):
    for file in SOURCES.glob("*.[ch]"):
        shutil.copy(file, tmp_path)
    return tmp_path


@needs_compiler
def test_a_compiler_means_kernels(folder):
    assert building.compile_kernels(folder) == ""
    assert (folder / building.LIBRARY).exists()
    assert sorted(p.name for p in folder.iterdir() if p.suffix not in {".c", ".h"}) == [
        building.LIBRARY
    ]


@needs_compiler
def test_kernels_of_other_sources_are_not_used(folder, monkeypatch):
    """They may take other arguments."""
    building.compile_kernels(folder)
    monkeypatch.setattr(native, "_FOLDER", folder)
    assert native.library.__wrapped__() is not None
    (folder / "rows.c").write_text("/* newer */")
    assert native.library.__wrapped__() is None


def test_without_a_compiler_there_is_a_reason_and_no_old_library(folder, monkeypatch):
    (folder / building.LIBRARY).write_bytes(b"old")
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert "no-such-compiler" in building.compile_kernels(folder)
    assert not (folder / building.LIBRARY).exists()


@needs_compiler
def test_sources_that_do_not_compile_are_said_so(folder):
    (folder / "rows.c").write_text("int broken(void) { return }")
    assert "error" in building.compile_kernels(folder)
    assert not (folder / building.LIBRARY).exists()


def test_what_is_no_library_is_not_loaded(tmp_path, monkeypatch):
    (tmp_path / building.LIBRARY).write_bytes(b"\x7fELF and nothing")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert native.library.__wrapped__() is None


@pytest.mark.parametrize(
    ("there", "told"), [(False, "C compiler"), (True, "install fkd once more")]
)
def test_missing_kernels_come_with_the_way_out(tmp_path, monkeypatch, there, told):
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setattr(native, "library", lambda: None)
    if there:
        (tmp_path / building.LIBRARY).touch()
    assert told in native.describe_kernels()


@needs_kernels
def test_checksums_are_those_of_zlib():
    """Lengths around the blocks of all ways, at every alignment, going on from another sum."""
    crc32 = native.library().fkd_crc32
    crc32.restype = ctypes.c_uint32
    data = np.random.default_rng(0).bytes(5000)
    buffer = ctypes.create_string_buffer(data, len(data))
    address = ctypes.addressof(buffer)
    for length in (*range(700), 1023, 1024, 1025, 2000, 4900):
        first = length % 67
        found = crc32(
            ctypes.c_uint32(length), ctypes.c_void_p(address + first), ctypes.c_int64(length)
        )
        assert found == zlib.crc32(data[first : first + length], length), length
