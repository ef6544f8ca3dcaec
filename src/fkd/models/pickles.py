"""What torch would do to unpickle a file, found out without doing it, and bounded.

`torch.load(weights_only=True)` runs no code of a file, but does as it is told otherwise: a file of
100 bytes can ask for a bytearray of 8 GiB, for the hexadecimal digits of the digits of a text, or
for a tensor larger than its storage. Here the opcodes are followed with the sizes of values in the
place of values. Refused are calls that a state dict never needs, and copies that together are
larger than a few times the file.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

_COPIES = 8  # all copies together, relative to the size of the file ...
_SPARE = 1 << 20  # ... and bytes besides, for small files
_BYTES_AS_TEXT = ("latin1", "latin-1")  # encodings; others make a text longer
_PROTOCOL = 2  # of torch.save by default; later ones have operations that torch refuses
_LARGEST_KEY = 1000  # parts of a key of a dict; a tuple of tuples of itself takes years to hash

_REBUILD = "torch._utils._rebuild_"
_KEYED = {"collections.OrderedDict", "collections.Counter", "builtins.set"}
_CONTAINERS = _KEYED | {"torch.Size"}
_HARMLESS = {
    "builtins.complex",
    "torch.device",
    "torch.serialization._get_layout",
    _REBUILD + "parameter",
    _REBUILD + "parameter_with_state",
}
_TENSORS = {_REBUILD + "tensor", _REBUILD + "tensor_v2", _REBUILD + "tensor_v3"}
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"

INERT = frozenset(
    {
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    }
    | {"numpy.dtype", "numpy.ndarray", "argparse.Namespace"}
    | {
        f"pathlib.{name}"
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    }
    | {f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")}
)
"""What training scripts keep beside weights; not needed here, and read as nothing."""


class Refused(Exception):
    """A pickle that must not be read; says why, as part of a sentence."""


class NeedsCode(Refused):
    """A pickle that wants something to be called that weights do not need."""


class Readable(Protocol):
    """A binary file, or mapped memory."""

    def read(self, n: int = ..., /) -> bytes:
        """At most n bytes."""

    def readline(self) -> bytes:
        """Up to the end of a line."""


class Inert:
    """Stands for an object that is not weights; takes and keeps nothing."""

    def __new__(cls, *_: Any) -> "Inert":
        """Takes whatever the object was made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def check_pickle(file: Readable | BinaryIO, num_bytes: int) -> None:
    """Follow the pickle that begins at the file's position, up to its end.

    Args:
        file: is left behind the pickle.
        num_bytes: of the whole file, unpacked: nothing in it may ask for much more.

    Raises:
        Refused: it asks for something else than weights and plain values, or for too much.
    """
    machine = _Machine(num_bytes)
    try:
        for opcode, argument, _ in pickletools.genops(cast(BinaryIO, file)):
            machine.step(opcode.name, argument)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise Refused("its pickle is cut short or damaged") from error


class _Value:
    """What is known of a value.

    Attributes:
        kind: what it is; "name" of something that can be called, "object" made by a call.
        content: text, number, parts of a tuple, or a name, where these matter.
        size: bytes or members that a copy takes.
        parts: values inside it that hashing visits.
    """

    __slots__ = ("content", "kind", "parts", "size")

    def __init__(self, kind: str, content: Any = None, size: int = 1, parts: int = 1) -> None:
        self.kind = kind
        self.content = content
        self.size = size
        self.parts = parts


class _Storage(NamedTuple):
    numel: int


@dataclass
class _Machine:
    """The stack and memo of an unpickler, holding sizes."""

    num_bytes: int

    def __post_init__(self) -> None:
        self.stack: list[_Value] = []
        self.below: list[list[_Value]] = []  # stacks under marks
        self.memo: dict[int, _Value] = {}
        self.storages: dict[Any, int] = {}  # key to elements, each at least a byte
        self.protocol = 0
        self.largest = 0  # parts of a tuple
        self.claimed = 0
        self.copied = 0

    def step(self, name: str, argument: Any) -> None:
        """Do what an opcode does."""
        if name in _LITERALS:
            self.stack.append(_literal(argument))
        elif name in _EMPTY:
            self.stack.append(_Value(_EMPTY[name], ()))
        elif name == "GLOBAL":
            self.stack.append(_Value("name", _full_name(argument)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self)
        elif name == "PROTO":
            self.protocol = argument
        elif name != "STOP" and self.protocol > _PROTOCOL:
            raise NeedsCode(f"its pickle has protocol {self.protocol}, not torch's {_PROTOCOL}")
        elif name != "STOP":
            raise Refused(f"its pickle has the operation {name}, which weights do not need")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[_Value]:
        members, self.stack = self.stack, self.below.pop()
        return members

    def make_tuple(self, members: list[_Value]) -> None:
        parts = min(1 + sum(member.parts for member in members), _LARGEST_KEY + 1)
        self.largest = max(self.largest, parts)
        self.stack.append(_Value("tuple", members, len(members), parts))

    def pop(self, count: int) -> list[_Value]:
        members = self.stack[len(self.stack) - count :]
        if len(members) < count:
            raise IndexError("the stack is empty")
        del self.stack[-count:]
        return members

    def add(self, members: list[_Value], *, keyed: bool) -> None:
        """Put members into the list or dict that lies on the stack."""
        if keyed and any(key.parts > _LARGEST_KEY for key in members[::2]):
            raise Refused("a key in it has very many parts")
        self.stack[-1].size += len(members)

    def build(self) -> None:
        """Give an object its state."""
        (state,) = self.pop(1)
        if self.stack[-1].kind != "object":
            raise NeedsCode("it changes something that is no object of its own")
        if state.kind == "tuple" and any(isinstance(v.content, _Storage) for v in state.content):
            raise Refused("its tensors have the form of torch before 0.4")
        if state.kind != "dict":  # whose keys were looked at
            self.require_small_keys()
        self._copy(state.size)

    def load_storage(self) -> None:
        """A persistent id: ("storage", kind, key, place, number of elements, ...)."""
        (pid,) = self.pop(1)
        numel = 0
        if pid.kind == "tuple" and len(pid.content) >= 5:
            key, numel = pid.content[2].content, pid.content[4].content
            if not isinstance(numel, int) or numel < 0:
                raise Refused("the size of a tensor in it is no number")
            self.claimed += max(0, numel - self.storages.get(key, 0))
            self.storages[key] = max(numel, self.storages.get(key, 0))
        if self.claimed > self.num_bytes:
            raise Refused("the tensors in it are larger than the file")
        self.stack.append(_Value("object", _Storage(numel)))

    def call(self) -> None:
        """Call a function, or make an object of a class."""
        function, arguments = self.pop(2)
        if function.kind != "name":
            raise NeedsCode("it calls something that has no name")
        if arguments.kind != "tuple":
            raise NeedsCode(f"it calls {function.content} without arguments")
        self.check_call(function.content, list(arguments.content))
        sizes = sum(value.size for value in arguments.content)
        kind = "text" if function.content == "_codecs.encode" else "object"  # bytes, or anything
        self.stack.append(_Value(kind, None, sizes))

    def require_small_keys(self) -> None:
        """Before something makes keys of what it is given, in whatever lists that lies."""
        if self.largest > _LARGEST_KEY:
            raise Refused("a key in it may have very many parts")

    def check_call(self, name: str, arguments: list[_Value]) -> None:
        """Refuse a call that weights do not need, or that copies too much."""
        self._copy(sum(value.size for value in arguments))
        if name in _TENSORS:
            _check_tensor(arguments)
        elif name == _SUBCLASS:
            function, _, inner = arguments[:3]
            self.check_call(function.content, list(inner.content))
        elif name in ("_codecs.encode", "builtins.bytearray"):
            _require_texts(name, arguments)
        elif name in _KEYED and arguments:
            self.require_small_keys()
        elif name not in _CONTAINERS | _HARMLESS | INERT:
            raise NeedsCode(f"it needs {name}")

    def _copy(self, size: int) -> None:
        self.copied += size
        if self.copied > _COPIES * self.num_bytes + _SPARE:
            raise Refused("it copies the same values again and again")


def _check_tensor(arguments: list[_Value]) -> None:
    """A tensor must lie within its storage; torch would enlarge the storage."""
    storage, offset, size, stride = (value.content for value in arguments[:4])
    if not isinstance(storage, _Storage):
        raise Refused("a tensor in it has no storage")
    sides = [value.content for value in size]
    steps = [value.content for value in stride]
    if not all(isinstance(n, int) and n >= 0 for n in [offset, *sides, *steps]):
        raise Refused("the shape of a tensor in it is impossible")
    if len(sides) != len(steps):
        raise Refused("the shape of a tensor in it is impossible")
    last = sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    if 0 not in sides and offset + last >= max(storage.numel, 1):
        raise Refused("a tensor in it is larger than its numbers")


def _require_texts(name: str, arguments: list[_Value]) -> None:
    """Only the spelling of bytes in pickles of protocol 2: a text and its encoding."""
    if not arguments:
        return
    text, *more = arguments
    known = len(more) == 1 and more[0].content in _BYTES_AS_TEXT
    if text.kind != "text" or not (known or (name == "builtins.bytearray" and not more)):
        raise NeedsCode(f"it uses {name} for something else than bytes")


def _literal(argument: Any) -> _Value:
    if isinstance(argument, str | bytes):
        return _Value("text", argument, len(argument))
    return _Value("number", argument)


def _full_name(argument: str) -> str:
    """A name as torch looks it up; old pickles have those of Python 2."""
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


# As torch's weights-only unpickler: what it does not know, it refuses.
_LITERALS = frozenset(
    {"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}
    | {"BINUNICODE", "SHORT_BINSTRING"}
)
_EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_STEPS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": lambda machine: machine.make_tuple(machine.pop_mark()),
    "TUPLE1": lambda machine: machine.make_tuple(machine.pop(1)),
    "TUPLE2": lambda machine: machine.make_tuple(machine.pop(2)),
    "TUPLE3": lambda machine: machine.make_tuple(machine.pop(3)),
    "APPEND": lambda machine: machine.add(machine.pop(1), keyed=False),
    "APPENDS": lambda machine: machine.add(machine.pop_mark(), keyed=False),
    "SETITEM": lambda machine: machine.add(machine.pop(2), keyed=True),
    "SETITEMS": lambda machine: machine.add(machine.pop_mark(), keyed=True),
    "BINPERSID": _Machine.load_storage,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
}
