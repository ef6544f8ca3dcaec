"""Files are told by their contents, whatever they are called, and refused for what they are."""

import argparse
import gzip
import io
import json
import os
import pathlib
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from fkd.errors import ConfigError
from fkd.models.weight_files import read_torch, read_weight_file

STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def packed(document, **options):
    buffer = io.BytesIO()
    torch.save(document, buffer, **options)
    return buffer.getvalue()


def zipped(members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(name="weights"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return buffer.getvalue()


def flipped(data, find):
    at = data.index(find)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def repacked(data, change, method=zipfile.ZIP_STORED):
    """An archive of torch.save with one member changed, its checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return zipped({name: change(name, value) for name, value in members.items()}, method)


BOMB = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."


def twice(name):
    """An archive in which torch finds a bomb where `zipfile` finds the pickle."""
    buffer = io.BytesIO(packed(STATE))
    with zipfile.ZipFile(buffer, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile tells of a second member of the same name
        archive.writestr(name, BOMB)
    return buffer.getvalue()


def two_lists():
    """An archive whose end names the first of two lists; `zipfile` takes the last."""
    first, second = (
        repacked(packed(STATE), lambda name, old, new=new: new if name.endswith("pkl") else old)
        for new in (BOMB, b"\x80\x02}.".ljust(len(BOMB)))
    )
    start, size = (
        first.index(b"PK\x01\x02"),
        second.index(b"PK\x05\x06") - second.index(b"PK\x01\x02"),
    )
    return first[: start + size] + second[-size - 22 : -22] + first[-22:]


SAFETENSORS = struct.pack("<Q", 40) + b'{"w":{"dtype":"F32","shape":[1],'.ljust(40) + b"\0\0\0\0"
REFUSED = {
    "empty": (b"", "is empty"),
    "page": (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "page after blanks": (b"\n\n  <HTML><body>404</body>", "web page"),
    "answer of a bucket": (b"<?xml version='1.0'?><Error/>", "web page"),
    "answer in JSON": (b'{"error": "not found"}', "is a text"),
    "words": (b"Not Found", r"is a text \('Not Found'\)"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "zeros": (b"\0" * 500, "nothing but zeros"),
    "gzip": (gzip.compress(b"x" * 50), "gzip; unpack"),
    "tar": (tarred(), "tar archive"),
    "zip of something": (zipped({"a/readme.txt": b"hello"}), "torch.save did not write"),
    "program": (zipped({"m/constants.pkl": b"", "m/data.pkl": b""}), "TorchScript"),
    "start of a zip": (b"PK\x03\x04" + b"\0" * 50, "cut short or damaged"),
    "cut zip": (packed(STATE)[:-40], "cut short or damaged"),
    "half a zip": (packed(STATE)[:400], "cut short or damaged"),
    "cut old form": (
        packed(STATE, _use_new_zipfile_serialization=False)[:-8],
        "is damaged, or .*EOF",
    ),
    "unknown compression": (
        repacked(packed(STATE), lambda _, old: old, zipfile.ZIP_BZIP2),
        "torch does not read",
    ),
    "later protocol": (packed(STATE, pickle_protocol=4), "has protocol 4, not torch's 2"),
    "other name but for case": (twice("archive/DATA.PKL"), "have the same name"),
    "one name twice": (twice("archive/data.pkl"), "have the same name"),
    "two lists of members": (two_lists(), "not where its end says"),
    "table": (b"PAR1" + b"\x15\x04\x80\xff" * 20, "does not begin as"),
    "program of a machine": (b"\x7fELF" + bytes(60), "does not begin as"),
    "old form without tensors": (
        packed(STATE, _use_new_zipfile_serialization=False)[:60],
        "damaged",
    ),
    "cut safetensors": (SAFETENSORS[:30], "cut short"),
    "long safetensors": (save({"w": torch.ones(3)}) + b"x", "cut short or longer"),
    "bad safetensors": (SAFETENSORS, "no whole safetensors file"),
    "pickle": (pickle.dumps({"w": 1}), "another kind than torch.save"),
    "pickle of protocol 2": (pickle.dumps({"w": 1}, 2), "another kind than torch.save"),
    "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x03" + b"\0" * 40, "ONNX"),
    "keras": (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "HDF5"),
    "numpy": (b"\x93NUMPY\x01\x00" + b"\0" * 40, "array of numpy"),
    "flipped bit": (flipped(packed(STATE), STATE["w"].numpy().tobytes()), "checksum"),
    "packed zeros": (
        zipped({"a/data.pkl": b"", "a/data/0": b"\0" * (1 << 26)}, zipfile.ZIP_DEFLATED),
        "are packed in its",
    ),
}


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.pth.tar", "x"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_for_the_true_reason(tmp_path, case, name):
    data, reason = REFUSED[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_weight_file(tmp_path / name)
    assert str(caught.value).startswith(f"checkpoint: {tmp_path / name} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.pth", "x.pth.tar", "x.bin", "x.safetensors", "x", "x.ckpt"])
@pytest.mark.parametrize("old", [False, True])
def test_read_whatever_it_is_called(tmp_path, name, old):
    (tmp_path / name).write_bytes(packed(STATE, _use_new_zipfile_serialization=not old))
    assert torch.equal(read_weight_file(tmp_path / name)["w"], STATE["w"])
    save_file(STATE, tmp_path / name)
    assert torch.equal(read_weight_file(tmp_path / name)["w"], STATE["w"])


BESIDE = {
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(4),
    "numpy bool": np.bool_(True),
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/runs")),
    "path": pathlib.PosixPath("runs/a"),
    "bytes": b"\x00\xff",
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
    "scalars of torch": [torch.device("cpu"), torch.float16, torch.Size([2])],
    "view": torch.arange(10.0)[2:8:2],
    "empty": torch.empty(0, 3),
    "expanded": torch.ones(1).expand(4, 5),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "complex": 1j,
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("case", BESIDE)
def test_what_scripts_keep_beside_weights(tmp_path, case, old):
    document = {"model": STATE, "best": BESIDE[case]}
    torch.save(document, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    assert torch.equal(read_weight_file(tmp_path / "x.pth")["model"]["w"], STATE["w"])


def test_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, pathlib.Path("/dev/null")):
        with pytest.raises(ConfigError, match="no regular file"):
            read_weight_file(path)


def test_a_pickle_in_an_archive_is_bounded(tmp_path):
    data = repacked(packed(STATE), lambda name, old: BOMB if name.endswith("data.pkl") else old)
    for name, content in (("new.pth", data), ("old.pth", packed(STATE)[:0] + BOMB)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError):
            read_weight_file(tmp_path / name)
        with pytest.raises(ConfigError):
            read_torch(tmp_path / name)


def test_memory_stays_bounded(tmp_path):
    """In a process of its own, whose largest size is looked at."""
    data = repacked(packed(STATE), lambda name, old: BOMB if name.endswith("data.pkl") else old)
    (tmp_path / "x.pth").write_bytes(data)
    script = (
        "import sys, resource; from pathlib import Path\n"
        "from fkd.models.weight_files import read_weight_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_weight_file(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.pth")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    message, grown = done.stdout.splitlines()
    assert "bytearray" in message
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(grown) * unit < 1 << 26


@pytest.mark.drill("G4", "a flipped bit of a checkpoint", failing="silent")
def test_every_flipped_bit_is_found_or_harmless(tmp_path, drill):
    data = packed(STATE)
    draw = np.random.default_rng(0)
    tries = drill.times(150, goal=20_000)
    path = tmp_path / "x.pth"
    for _ in range(tries):
        at, bit = int(draw.integers(len(data))), int(draw.integers(8))
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        try:
            found = read_weight_file(path)
        except ConfigError:
            continue
        assert list(found) == list(STATE)
        assert all(torch.equal(found[name], STATE[name]) for name in STATE)
    drill.tried(tries)


def test_names_of_json_files(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="is a text"):
        read_weight_file(tmp_path / "x.json")


PIECES = (
    *(b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n", b"ctorch\nTensor\n", b"X\x06\0\0\0latin1"),
    *(b"J\xff\xff\xff\x7f", b"\x85R", b"\x86R", b"\x81", b"b", b"(", b"t", b"h\0", b"q\0", b"Q"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"0", b"]", b"}"),
)


def mutated(data, draw):
    """A few bytes changed, removed, repeated, or replaced by opcodes that do something."""
    for _ in range(int(draw.integers(1, 5))):
        at = int(draw.integers(len(data) + 1))
        until = at + int(draw.integers(0, 12))
        change = int(draw.integers(4))
        middle = (
            *(data[at:until] * 2, b"", draw.bytes(until - at)),
            PIECES[int(draw.integers(len(PIECES)))],
        )
        data = data[:at] + middle[change] + data[until:]
    return data


@pytest.mark.drill("G6", "a mutated pickle with right checksums", failing="untyped")
def test_mutated_pickles_are_read_or_refused(tmp_path, drill):
    document = {"model": STATE, "best": np.float64(1), "data": b"\xff", "n": [1, (2, "x")]}
    old = packed(document, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(io.BytesIO(packed(document))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in members if name.endswith("data.pkl"))
    draw, path = np.random.default_rng(1), tmp_path / "x.pth"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tries = drill.times(300, goal=1_000_000)
    for i in range(tries):
        new = zipped({**members, pickled: mutated(members[pickled], draw)})
        path.write_bytes(new if i % 2 else old[:30] + mutated(old[30:], draw))
        with suppress(ConfigError):
            read_weight_file(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 1 << 28
    drill.tried(tries)
