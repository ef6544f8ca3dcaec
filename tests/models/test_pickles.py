"""A pickle may not ask for more than its file explains, nor call what weights do not need."""

import io
import pickle
import time
from collections import Counter, OrderedDict

import pytest
import torch

from fkd.models.pickles import NeedsCode, Refused, check_pickle

GIB = 1 << 30


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def named(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def storage(numel, key="0"):
    return (
        b"(" + text("storage") + named("torch", "FloatStorage") + text(key) + text("cpu")
        + number(numel) + b"tQ"
    )  # fmt: skip


def tensor(numel, sides, steps, offset=0):
    shapes = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (sides, steps))
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + b"(" + storage(numel) + number(offset) + shapes + b"\x89"
        + named("collections", "OrderedDict") + b")RtR"
    )  # fmt: skip


def whole(body):
    return b"\x80\x02" + body + b"."


def doubled_by_codec(times=40):
    encode = named("_codecs", "encode")
    hexed = encode + text("ab" * 32) + text("latin1") + b"\x86R"
    for _ in range(times):
        hexed = encode + hexed + text("hex") + b"\x86R"
    return whole(hexed)


NESTED_KEY = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of 2^60 parts; lies on the stack

HOSTILE = {
    "bytearray of 8 GiB": whole(named("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R"),
    "bytearray under its old name": whole(
        named("__builtin__", "bytearray") + b"J\xff\xff\xff\x7f\x85R"
    ),
    "bytes doubled by hex": doubled_by_codec(),
    "tensor by its class": whole(named("torch", "Tensor") + number(GIB) + b"\x85R"),
    "tensor by NEWOBJ": whole(named("torch", "FloatTensor") + number(GIB) + b"\x85\x81"),
    "storage by its class": whole(
        named("torch.storage", "UntypedStorage") + number(GIB) + b"\x85R"
    ),
    "storage larger than the file": whole(storage(GIB)),
    "many storages": whole(b"(" + b"".join(storage(700, str(i)) for i in range(9)) + b"t"),
    "tensor larger than its storage": whole(tensor(4, [1 << 15, 1 << 15], [1 << 15, 1])),
    "offset behind its storage": whole(tensor(4, [2], [1], offset=1 << 30)),
    "negative side": whole(tensor(4, [-1], [1])),
    "copies of a text": whole(
        text("x" * 100_000)
        + b"q\x00"
        + (b"(" + named("builtins", "bytearray") + b"h\x00" + text("latin1") + b"\x86Rt") * 500
    ),
    "copies of a list": whole(
        b"]("
        + b"K\x01" * 50_000
        + b"eq\x00"
        + (named("collections", "OrderedDict") + b"h\x00\x85R") * 500
    ),
    "a key that takes years to hash": whole(
        b"}" + b")q\x00" + b"\x86q\x00".join([b"h\x00h\x00"] * 60) + b"\x86K\x01s"
    ),
    **{
        f"the same in a {name}": whole(NESTED_KEY + named(module, name) + b"]" + pair + b"a\x85R")
        for module, name, pair in (
            ("collections", "OrderedDict", b"h\x00K\x01\x86"),
            ("collections", "Counter", b"h\x00"),
            ("builtins", "set", b"h\x00"),
        )
    },
    "the same in a list that grows later": whole(
        b"]q\x01]q\x02a"
        + NESTED_KEY
        + b"h\x02h\x00aK\x01a"
        + named("collections", "OrderedDict")
        + b"h\x01\x85R"
    ),
    "the same in the state of an object": whole(
        NESTED_KEY + named("collections", "OrderedDict") + b")R]h\x00K\x01\x86ab"
    ),
    "set state of a tensor": whole(
        tensor(4, [2], [1])
        + b"("
        + storage(4)
        + number(0)
        + number(GIB)
        + b"\x85"
        + number(1)
        + b"\x85tb"
    ),
}


# What pickles have called to do harm.
CALLED = {
    "builtins": "eval exec compile open getattr setattr __import__ print input breakpoint map type",
    "os": "system popen remove execv fork kill rename",
    "posix": "system",
    "nt": "system",
    "subprocess": "Popen call check_output run",
    "importlib": "import_module",
    "runpy": "run_path",
    "pty": "spawn",
    "socket": "socket",
    "urllib.request": "urlopen",
    "shutil": "rmtree",
    "pathlib": "Path",
    "io": "open",
    "code": "interact",
    "ctypes": "CDLL",
    "marshal": "loads",
    "pickle": "loads",
    "_pickle": "loads",
    "types": "FunctionType CodeType",
    "functools": "partial",
    "operator": "attrgetter methodcaller",
    "numpy": "load fromfile",
    "torch": "load compile",
    "torch.hub": "load",
    "torch.jit": "load",
    "timeit": "timeit",
    "pdb": "run",
    "webbrowser": "open",
    "asyncio": "run",
    "multiprocessing": "Process",
    "logging.config": "dictConfig",
}


class TestBounds:
    @pytest.mark.drill("G7", "hostile pickles", failing="untyped")
    @pytest.mark.parametrize("case", HOSTILE)
    def test_refuses_within_moments(self, case, drill):
        drill.tried(1)
        started = time.monotonic()
        with pytest.raises(Refused):
            check_pickle(io.BytesIO(HOSTILE[case]), len(HOSTILE[case]))
        assert time.monotonic() - started < 2

    @pytest.mark.parametrize("cut", range(0, 60, 7))
    def test_cut_short(self, cut):
        data = pickle.dumps({"a": [1, 2, (3, "four")], "b": "x" * 50}, 2)
        with pytest.raises(Refused, match="cut short or damaged"):
            check_pickle(io.BytesIO(data[:cut]), cut)

    @pytest.mark.drill("G7", "hostile pickles", failing="untyped")
    @pytest.mark.parametrize(
        ("module", "name"),
        [(module, name) for module, names in CALLED.items() for name in names.split()],
    )
    def test_names_what_would_be_called(self, module, name, drill):
        drill.tried(1)
        data = whole(named(module, name) + text("x") + b"\x85R")
        with pytest.raises(NeedsCode, match=f"needs {module}.{name}"):
            check_pickle(io.BytesIO(data), len(data))


class TestOrdinary:
    @pytest.mark.parametrize(
        "value",
        [
            {"epoch": 3, "lr": 0.1, "name": "x", "none": None, "flag": True, "big": 1 << 70},
            OrderedDict(a=[1, 2], b=(1, "two", 3.0)),
            Counter("banana"),
            {"data": b"\x00\xff" * 100, "more": bytearray(b"abc"), "set": {1, 2}},
            {(1, 2): 3, "nested": [[[[]]]]},
            torch.Size([2, 3]),
        ],
    )
    def test_passes(self, value):
        data = pickle.dumps(value, 2)
        check_pickle(io.BytesIO(data), len(data))

    def test_leaves_the_file_behind_the_pickle(self):
        file = io.BytesIO(pickle.dumps([1], 2) + b"rest")
        check_pickle(file, 100)
        assert file.read() == b"rest"
