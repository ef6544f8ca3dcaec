"""What label files hold is read; whatever else a pickle may ask for is refused and never run."""

import collections
import contextlib
import io
import os
import pickle
import pickletools
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from fkd.errors import FormatError
from fkd.labeling.foreign.pickles import read_foreign

CONTENT = [
    np.random.default_rng(0).random((3, 4)).astype(np.float32),
    np.array([True, False, True]),
    np.arange(6, dtype=np.int64).reshape(3, 2).T,
    np.arange(6, dtype=">f8"),
    np.zeros((0, 5), np.float16),
    {"params": [(1, 2, 3, 4), True], "prob": ([0.5, 0.25], [7, 1])},
    (1, -5, 2.5, None, "é", b"\xff\x00", 1 << 40),
]
TENSORS = [torch.arange(6.0).view(2, 3).t(), torch.tensor([1, 2, 3])[1:], torch.ones(2).half()]
KINDS = {
    "archive": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
}


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            same(*pair)
    else:
        assert found == expected


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_what_torch_saves_comes_back(options):
    same(read_foreign(saved(CONTENT, **options), "f"), CONTENT)
    found = read_foreign(saved(TENSORS, **options), "f")
    same(found, [tensor.numpy() for tensor in TENSORS])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_pickles_come_back(protocol):
    same(read_foreign(pickle.dumps(CONTENT, protocol), "f"), CONTENT)


@pytest.mark.parametrize("name", ["numpy.core", "numpy._core"])
def test_arrays_of_both_numpys_are_read(name):
    data = pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core", name.encode())
    same(read_foreign(data, "f"), np.arange(3.0))


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Plain:
    """An object with a state."""

    def __init__(self):
        self.x = 1


def text(*parts: bytes) -> bytes:
    """A pickle of protocol 2, written by hand."""
    return b"\x80\x02" + b"".join(parts) + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R"
ENCODE = b"c_codecs\nencode\n"
HOSTILE_CALLS = {
    "os.mkdir": lambda mark: Calls(os.mkdir, mark),
    "os.system": lambda mark: Calls(os.system, f"mkdir {mark}"),
    "eval": lambda mark: Calls(eval, f"__import__('os').mkdir({mark!r})"),
    "exec": lambda mark: Calls(exec, f"import os; os.mkdir({mark!r})"),
    "getattr": lambda mark: Calls(getattr, [], "append"),
    "open": lambda mark: Calls(open, mark, "w"),
    "bytearray": lambda mark: Calls(bytearray, 1 << 33),
    "bytes": lambda mark: Calls(bytes, 1 << 33),
    "list of range": lambda mark: Calls(list, range(1 << 33)),
    "OrderedDict of items": lambda mark: Calls(collections.OrderedDict, [(1, 2)]),
    "defaultdict": lambda mark: collections.defaultdict(list),
    "Counter": lambda mark: collections.Counter("aa"),
    "deque": lambda mark: collections.deque([1]),
    "set": lambda mark: {1, 2},
    "frozenset": lambda mark: frozenset({1}),
    "complex": lambda mark: 1j,
    "object": lambda mark: Plain(),
    "class": lambda mark: Plain,
    "function": lambda mark: len,
    "numpy scalar": lambda mark: np.float32(1),
    "numpy empty": lambda mark: Calls(np.empty, (1 << 40,)),
    "numpy load": lambda mark: Calls(np.load, mark),
    "numpy objects": lambda mark: np.array([Plain(), None], object),
    "numpy text": lambda mark: np.array(["a"]),
    "numpy dates": lambda mark: np.array(["2020-01-01"], "datetime64[D]"),
    "numpy fields": lambda mark: np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "numpy matrix": lambda mark: np.asmatrix(np.eye(2)),
    "numpy masked": lambda mark: np.ma.masked_array([1, 2], [0, 1]),
    "parameter": lambda mark: torch.nn.Parameter(torch.zeros(2)),
    "bfloat16": lambda mark: torch.zeros(2, dtype=torch.bfloat16),
    "sparse": lambda mark: torch.eye(2).to_sparse(),
    "quantized": lambda mark: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    "module": lambda mark: torch.nn.Linear(1, 1),
    "dtype": lambda mark: torch.float32,
    "device": lambda mark: torch.device("cpu"),
    "key is a tuple": lambda mark: {(1, 2): 3},
    "key is bytes": lambda mark: {b"a": 3},
}
HOSTILE_BYTES = {
    "nothing": b"",
    "no pickle": b"hello",
    "cut short": pickle.dumps(CONTENT, 2)[:-9],
    "no end": text(b"K\x01")[:-1],
    "two values": pickle.dumps(1, 2) + pickle.dumps(2, 2),
    "protocol 5 buffers": pickle.dumps(np.arange(3.0), 5),
    "protocol 0": pickle.dumps([1], 0),
    "joblib": b"x\x9c" + b"0" * 20,
    "gzip": b"\x1f\x8b" + b"0" * 20,
    "name that calls": text(b"cos\nsystem\nX\x02\x00\x00\x00id\x85R"),
    "instance": text(b"(cos\nsystem\nX\x02\x00\x00\x00ido"),
    "old instance": text(b"(X\x02\x00\x00\x00idios\nsystem\n"),
    "new object": text(b"cbuiltins\nlist\n)\x81"),
    "extension": text(b"\x82\x01"),
    "persistent text": text(b"Pabc\n"),
    "persistent list": text(b"]Q"),
    "storage of nothing": text(b"(X\x07\x00\x00\x00storageK\x01K\x02K\x03K\x04tQ"),
    "calls a number": text(b"K\x01)R"),
    "calls an array": text(ARRAY, b")R"),
    "calls the class of arrays": text(b"cnumpy\nndarray\nK\x05\x85R"),
    "calls without a tuple": text(ENCODE, b"]R"),
    "encodes another encoding": text(ENCODE, b"X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7\x86R"),
    "encodes a number": text(ENCODE, b"K\x05X\x06\x00\x00\x00latin1\x86R"),
    "array of another class": text(
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R"
    ),
    "array without content": text(ARRAY),
    "array with a short state": text(ARRAY, b"K\x01\x85b"),
    "array of a negative size": text(ARRAY, b"(K\x01J\xff\xff\xff\xff\x85", DTYPE, b"\x89U\x00tb"),
    "array longer than its bytes": text(ARRAY, b"(K\x01K\x08\x85", DTYPE, b"\x89C\x04abcdtb"),
    "array of 2^40": text(
        ARRAY, b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85", DTYPE, b"\x89C\x00tb"
    ),
    "dtype alone": text(DTYPE),
    "dtype of objects": text(b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R"),
    "dtype of a billion bytes": text(b"cnumpy\ndtype\nX\x0b\x00\x00\x00V1000000000\x85R"),
    "state of a name": text(b"cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb"),
    "state of a list": text(b"]}X\x01\x00\x00\x00aK\x01sb"),
    "a name": text(ENCODE),
    "items of a list": text(b"]K\x01K\x02s"),
    "append to a dict": text(b"}K\x01a"),
    "append to an array": text(ARRAY, b"K\x01a"),
    "unknown memo": text(b"h\x07"),
    "no mark": text(b"K\x01t"),
    "empty stack": text(b"0"),
    "a list in itself": None,  # below: it is read
}


@pytest.mark.parametrize("name", HOSTILE_CALLS)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
@pytest.mark.filterwarnings("ignore")  # torch's, of old kinds of tensors
def test_other_objects_are_refused_and_not_made(name, options, tmp_path):
    mark = tmp_path / "run"
    value = HOSTILE_CALLS[name](str(mark))
    with pytest.raises(FormatError, match="x is no label file: "):
        read_foreign(saved([value], **options), "x")
    assert not mark.exists()


@pytest.mark.parametrize("name", [n for n, data in HOSTILE_BYTES.items() if data is not None])
def test_other_bytes_are_refused(name):
    with pytest.raises(FormatError, match="x is no label file: "):
        read_foreign(HOSTILE_BYTES[name], "x")


def test_a_list_in_itself_ends():
    data = text(b"]q\x00h\x00a")
    assert read_foreign(data, "x") == [None]


def test_there_are_sixty_variants():
    assert len(HOSTILE_CALLS) + len(HOSTILE_BYTES) >= 60


BOMBS = {
    "the same bytes again": text(
        b"]q\x01(",
        ENCODE,
        b"q\x02X\x00\x00\x01\x00",
        b"a" * 65536,
        b"q\x03",
        b"X\x06\x00\x00\x00latin1q\x040",
        b"h\x02h\x03h\x04\x86R" * 20_000,
        b"e",
    ),
    "memo of 2^31": text(b"K\x01r\xff\xff\xff\x7f"),
    "text of 4 GB": text(b"X\xff\xff\xff\xff"),
    "bytes of 4 GB": text(b"B\xff\xff\xff\xff"),
    "bytearray of 2^62": b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x40.",
    "frame of 2^62": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x40.",
    "tuples of tuples": text(b"K\x01", b"q\x01h\x01\x86" * 60, b"}h\x01K\x01s"),
    "deep lists": text(b"]" * 50_000, b"a" * 49_999),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_asks_for_much_gets_little(name):
    tracemalloc.start()
    try:
        with contextlib.suppress(FormatError):
            read_foreign(BOMBS[name], "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(BOMBS[name]) + (32 << 20)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_of_the_same_numbers_are_not_copied_without_end(zipped):
    """Each view would be an array of its own: 300 bytes of a file would be 4 MB of memory."""
    numbers, buffer = torch.zeros(1 << 20), io.BytesIO()
    views = [numbers[i:] for i in range(200)]
    torch.save(views, buffer, _use_new_zipfile_serialization=zipped)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="together larger than any label file"):
            read_foreign(buffer.getvalue(), "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 160 << 20
    buffer = io.BytesIO()
    torch.save(views[:3], buffer, _use_new_zipfile_serialization=zipped)
    assert [len(view) for view in read_foreign(buffer.getvalue(), "x")] == [
        len(v) for v in views[:3]
    ]


def test_numbers_with_another_sign_are_refused():
    """Such tensors say beside their numbers that these are to be negated."""
    buffer = io.BytesIO()
    torch.save(torch._neg_view(torch.ones(3)), buffer)
    with pytest.raises(FormatError, match="mean something else than they say"):
        read_foreign(buffer.getvalue(), "x")


def repacked(data: bytes, change) -> bytes:
    """An archive with changed members, and right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            for name, content in change(member.filename, old.read(member)):
                new.writestr(name, content)
    return buffer.getvalue()


ARCHIVES = {
    "no pickle": lambda name, data: [] if name.endswith("data.pkl") else [(name, data)],
    "big-endian": lambda name, data: [(name, b"big" if name.endswith("byteorder") else data)],
    "no storage": lambda name, data: [] if name.endswith("/data/0") else [(name, data)],
    "short storage": lambda name, data: [(name, data[:-1] if name.endswith("/data/0") else data)],
    "long storage": lambda name, data: [(name, data + b"0" if name.endswith("/data/0") else data)],
    "two pickles": lambda name, data: [(name, data), ("b/data.pkl", data)][: 1 + ("pkl" in name)],
}


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_with_other_members_are_refused(change):
    whole = saved(TENSORS[0])
    assert read_foreign(repacked(whole, lambda *pair: [pair]), "x").shape == (3, 2)
    with pytest.raises(FormatError, match="x is no label file"):
        read_foreign(repacked(whole, change), "x")


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_any_cut_is_found(options):
    whole = saved([*CONTENT, *TENSORS], **options)
    for length in range(0, len(whole) - 1, 37):
        with pytest.raises(FormatError, match="x is no label file"):
            read_foreign(whole[:length], "x")


def test_any_flipped_bit_of_an_archive_is_found_or_harmless():
    whole = saved(CONTENT)
    draw = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[int(draw.integers(len(whole)))] ^= 1 << int(draw.integers(8))
        try:
            same(read_foreign(bytes(changed), "x"), CONTENT)
        except FormatError:
            continue


def test_the_bombs_are_what_they_say():
    """A bomb that is no pickle at all would prove nothing."""
    for name in ("the same bytes again", "tuples of tuples", "deep lists"):
        assert sum(1 for _ in pickletools.genops(BOMBS[name])) > 100
