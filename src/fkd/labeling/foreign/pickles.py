"""Label files of other programs, which are pickles, read without running anything of them.

A pickle is a program: it names functions and calls them. Here every name that it may use is in a
table of a few, and stands for a function of this module, which makes an array out of bytes or
refuses. numpy and torch are never called by a file, their pickle support is not used, and
operations that label files do not have are refused. What comes out are numbers, texts, bytes,
lists, tuples, dicts and arrays, together not much larger than the file.

Read are what `torch.save` writes, today and before torch 1.6, and plain pickles of protocol 2 to 5.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from fkd.errors import FKDError, FormatError, reason_of
from fkd.labeling.foreign.values import (
    CALLED,
    MAX_BYTES,
    STORAGES,
    ArrayParts,
    Name,
    NumberKind,
    Refused,
    Storage,
    TensorParts,
    is_shape,
    numbers_of,
)

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_ZLIB = (b"x\x01", b"x\x9c", b"x\xda")
_MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch wrote before 1.6
_LEGACY_PROTOCOL = 1001
_COPIES = 4  # bytes made of text, relative to the size of the file


def read_foreign(data: bytes, path: str) -> Any:
    """The value that a label file holds; tensors come as arrays.

    Args:
        data: the whole file.
        path: of the file, for messages.

    Raises:
        FormatError: it is no such file, is damaged, or wants anything else than values.
    """
    try:
        if len(data) > MAX_BYTES:
            raise Refused(f"it has {len(data):,} bytes, more than any label file")
        return _resolve(*_read(data))
    except FKDError:
        raise
    except Refused as error:
        raise FormatError(f"{path} is no label file: {error}") from error
    except Exception as error:  # a hostile file may make the readers stumble over anything
        reason = reason_of(error, 160)
        raise FormatError(f"{path} is no label file: it is damaged ({reason})") from error


def _read(data: bytes) -> tuple[Any, Callable[["Storage"], bytes]]:
    """The value of a file, and where the numbers of its tensors are found."""
    if data.startswith(_ZIP):
        return _read_archive(data)
    if data.startswith(_ZLIB):
        raise Refused("it is compressed, as joblib does; save it again by torch.save")
    if not data.startswith(_PICKLE):
        raise Refused("it is neither a file of torch.save nor a pickle")
    stream = io.BytesIO(data)
    value = _Reader(stream, len(data)).load()
    if value == _MAGIC and stream.tell() < len(data):
        return _read_legacy(stream, len(data))
    if stream.read(1):
        raise Refused("something follows its pickle")
    return value, _no_storage


def _read_archive(data: bytes) -> tuple[Any, Callable[["Storage"], bytes]]:
    """What torch >= 1.6 writes: an archive of a pickle and one member for each storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise Refused("two of its members have one name")
        if sum(info.file_size for info in members.values()) > MAX_BYTES:
            raise Refused("what is packed in it is larger than any label file")
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise Refused("it is an archive of something else")
        contents = {name: archive.read(name) for name in members}  # compares checksums
    order = contents.get(f"{roots[0]}byteorder", b"little")
    if order.strip() != b"little":
        raise Refused("its numbers are not little-endian")
    pickled = contents[f"{roots[0]}data.pkl"]
    value = _Reader(io.BytesIO(pickled), len(pickled)).load()
    return value, lambda storage: contents[f"{roots[0]}data/{storage.key}"]


def _read_legacy(stream: io.BytesIO, num_bytes: int) -> tuple[Any, Callable[["Storage"], bytes]]:
    """What torch before 1.6 writes: pickles one after the other, then the storages."""
    if _Reader(stream, num_bytes).load() != _LEGACY_PROTOCOL:
        raise Refused("its version of torch's format is unknown")
    system = _Reader(stream, num_bytes).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("its numbers are not little-endian")
    reader = _Reader(stream, num_bytes)
    value = reader.load()
    keys = _Reader(stream, num_bytes).load()
    storages = {storage.key: storage for storage in reader.storages}
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise Refused("its tensors and their numbers do not belong together")
    contents: dict[str, bytes] = {}
    for key in keys:
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        if numel != storages[key].numel:
            raise Refused("a tensor in it has another length than it says")
        contents[key] = stream.read(storages[key].num_bytes)
    return value, lambda storage: contents[storage.key]


def _no_storage(storage: "Storage") -> bytes:
    raise Refused("it has a tensor without numbers")


class _Reader(pickle._Unpickler):
    """The unpickler of the standard library with few operations and few names."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {}

    def __init__(self, stream: io.BytesIO, num_bytes: int) -> None:
        super().__init__(stream)
        self.storages: list[Storage] = []
        self._left = _COPIES * num_bytes + 1024

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        full = f"{module}.{name}"
        if full in STORAGES or full == "numpy.ndarray":
            return Name(full, None)
        if full == "_codecs.encode":
            return Name(full, self._encode)
        if full not in CALLED:
            raise Refused(f"it needs {full!r:.80}, which no label file does")
        return Name(full, CALLED[full])

    def persistent_load(self, pid: Any) -> Storage:
        """The storage of a tensor."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise Refused("it refers to something outside")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not isinstance(kind, Name) or kind.name not in STORAGES or not isinstance(key, str):
            raise Refused("it has numbers of an unknown kind")
        if not is_shape((numel,)):
            raise Refused("the size of a tensor in it is no number")
        self.storages.append(Storage(key, np.dtype(STORAGES[kind.name]), numel))
        return self.storages[-1]

    def _encode(self, text: Any, encoding: Any = None) -> bytes:
        """Bytes as protocol 2 spells them: a text in Latin-1."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise Refused("it uses _codecs.encode for something else than bytes")
        self._left -= len(text)
        if self._left < 0:
            raise Refused("it copies the same bytes again and again")
        return text.encode("latin-1")

    def _call(self) -> None:
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        arguments = stack.pop()
        function = stack[-1]
        if not isinstance(function, Name) or function.function is None:
            raise Refused("it calls something that is no function")
        if not isinstance(arguments, tuple):
            raise Refused(f"it calls {function.name} without arguments")
        stack[-1] = function.function(*arguments)

    def _build(self) -> None:
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state = stack.pop()
        if not isinstance(stack[-1], ArrayParts | NumberKind):
            raise Refused("it changes something that is no array")
        stack[-1].build(state)

    def _set_items(self, members: Sequence[Any], target: Any) -> None:
        if not isinstance(target, dict):
            raise Refused("it puts keys into something that is no dict")
        for key, value in zip(members[::2], members[1::2], strict=True):
            if not isinstance(key, str | int):
                raise Refused("a key in it is neither a text nor a number")
            target[key] = value

    def _set_item(self) -> None:
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        members = stack[-2:]
        del stack[-2:]
        self._set_items(members, stack[-1])

    def _set_marked(self) -> None:
        members = self.pop_mark()  # type: ignore[attr-defined]
        self._set_items(members, self.stack[-1])  # type: ignore[attr-defined]

    def _append(self) -> None:
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        value = stack.pop()
        self._extend([value])

    def _append_marked(self) -> None:
        self._extend(self.pop_mark())  # type: ignore[attr-defined]

    def _extend(self, members: Sequence[Any]) -> None:
        target = self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(target, list):
            raise Refused("it appends to something that is no list")
        target.extend(members)


_KEPT = (
    "PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINBYTES SHORT_BINBYTES EMPTY_TUPLE EMPTY_LIST EMPTY_DICT TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID"
)
_Reader.dispatch = {
    opcode: pickle._Unpickler.dispatch[opcode]
    for opcode in (getattr(pickle, name)[0] for name in _KEPT.split())
} | {
    pickle.REDUCE[0]: _Reader._call,
    pickle.BUILD[0]: _Reader._build,
    pickle.SETITEM[0]: _Reader._set_item,
    pickle.SETITEMS[0]: _Reader._set_marked,
    pickle.APPEND[0]: _Reader._append,
    pickle.APPENDS[0]: _Reader._append_marked,
}


def _resolve(value: Any, read: Callable[[Storage], bytes]) -> Any:
    """The value with arrays in the place of what stands for them; every part is visited once."""
    done: dict[int, Any] = {}
    left = MAX_BYTES  # of all tensors, which may be views of the same numbers

    def visit(part: Any) -> Any:
        nonlocal left
        if isinstance(part, ArrayParts):
            if part.value is None:
                raise Refused("an array in it has no content")
            return part.value
        if isinstance(part, TensorParts):
            left -= part.num_bytes
            if left < 0:
                raise Refused("its tensors are together larger than any label file")
            return numbers_of(part, read(part.storage))
        if isinstance(part, list | tuple | dict):
            if id(part) not in done:
                done[id(part)] = None  # of a list inside itself
                done[id(part)] = _visit_members(part, visit)
            return done[id(part)]
        if isinstance(part, Name | NumberKind | Storage):
            raise Refused("it holds something else than values")
        return part

    return visit(value)


def _visit_members(part: Any, visit: Callable[[Any], Any]) -> Any:
    if isinstance(part, dict):
        return {key: visit(member) for key, member in part.items()}
    return type(part)(visit(member) for member in part)
