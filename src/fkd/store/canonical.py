"""Canonical JSON: one byte string per value; parsing of JSON from files; image keys as text.

Canonical means: keys sorted, no spaces, ASCII only, no NaN or Infinity, one newline at the end. A
file of a store must hold exactly these bytes, so a flipped bit shows even in a space, and duplicate
keys or other spellings of a number are found.

The key of an image identifies it in its source, usually by its relative path: 1 to 4,096 bytes of
any kind. Nothing is stripped or normalized, so "a.jpg", "A.jpg" and two spellings of one accent
differ.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fkd.errors import DamagedStore, FormatError

T = TypeVar("T")

MAX_KEY_BYTES = 4096
_DIGEST = re.compile("[0-9a-f]{64}")
_SHOWN = 60  # characters of a value that an error message shows


def encode(value: Any) -> bytes:
    """The canonical bytes of a JSON value.

    Raises:
        ValueError: it holds NaN or Infinity, or is nested into itself.
        TypeError: it holds something that JSON cannot express.

    Example:
        >>> encode({"b": [1, 0.5], "a": "\\u00e9"})
        b'{"a":"\\\\u00e9","b":[1,0.5]}\\n'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii") + b"\n"


def decode(data: bytes, file: str) -> Any:
    """The value of canonical bytes.

    Raises:
        DamagedStore: the bytes are not canonical JSON; `file` is named.
    """
    try:
        value = json.loads(data)
        same = encode(value) == data
    except (ValueError, RecursionError) as error:
        raise DamagedStore(f"{file} is not readable as JSON; restore it from a copy") from error
    if not same:
        raise DamagedStore(f"{file} was changed: it is not canonical JSON; restore it from a copy")
    return value


def sha256(data: Any) -> str:
    """The SHA-256 of bytes or a buffer, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Fields:
    """The members of a JSON object, taken one by one with their type and range checked.

    A missing or odd member raises `FormatError` naming the file and the member.
    """

    def __init__(self, value: Any, file: str) -> None:
        self._file = file
        if not isinstance(value, dict):
            raise FormatError(f"{file} holds {_short(value)} where an object is expected")
        self._members = value

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        value = self._members.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.odd(name, f"a whole number from {low} to {high}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        return self._typed(name, str, "a string")

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of these strings."""
        value = self.text(name)
        if value not in choices:
            raise self.odd(name, f"one of {', '.join(choices)}")
        return value

    def absent(self, name: str, where: str) -> None:
        """Refuse a member that means nothing in a store of this kind."""
        if name in self._members:
            raise FormatError(f"{self._file} has the field {name}, which means nothing {where}")

    def digest(self, name: str) -> str:
        """64 hexadecimal digits."""
        value = self.text(name)
        if not _DIGEST.fullmatch(value):
            raise self.odd(name, "64 hexadecimal digits")
        return value

    def items(self, name: str) -> list[Any]:
        """A list."""
        return self._typed(name, list, "a list")

    def number(self, name: str) -> float:
        """A number, whole or not."""
        return self._as_floats(name, [self._members.get(name)], "a number")[0]

    def pair(self, name: str) -> tuple[float, float]:
        """A list of two numbers."""
        first, *rest = self._as_floats(name, self._members.get(name), "two numbers")
        if len(rest) != 1:
            raise self.odd(name, "two numbers")
        return first, rest[0]

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def members(self, name: str) -> dict[str, Any]:
        """An object."""
        return self._typed(name, dict, "an object")

    def exactly(self, *names: str) -> None:
        """Refuse members that this version does not know."""
        if unknown := sorted(self._members.keys() - set(names)):
            raise FormatError(f"{self._file} has the unknown field {_short(unknown[0])}")

    def _typed(self, name: str, kind: type[T], wanted: str) -> T:
        value = self._members.get(name)
        if not isinstance(value, kind):
            raise self.odd(name, wanted)
        return value

    def _as_floats(self, name: str, items: Any, wanted: str) -> list[float]:
        whole = isinstance(items, list) and bool(items)
        if not whole or not all(type(item) in (int, float) for item in items):
            raise self.odd(name, wanted)
        try:
            return [float(item) for item in items]
        except OverflowError as error:
            raise self.odd(name, wanted) from error

    def odd(self, name: str, wanted: str) -> FormatError:
        """What to raise for a member that is missing or is not what was `wanted`."""
        if name not in self._members:
            return FormatError(f"{self._file} lacks the field {name} ({wanted})")
        return FormatError(f"{self._file}: {name} is {_short(self._members[name])}, not {wanted}")


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Where two JSON values differ: dotted name, old value, new value; long lists as one field.

    Example:
        >>> list(differences({"crops": {"seed": 0}, "k": 5}, {"crops": {"seed": 1}, "k": 5}))
        ['crops.seed: 0 in the store, 1 now']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{name}.{key}" if name else key
            if key not in new:
                yield f"{inner}: {_short(old[key])} in the store, absent now"
            elif key not in old:
                yield f"{inner}: absent in the store, {_short(new[key])} now"
            else:
                yield from differences(old[key], new[key], inner)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_differences(old, new, name)
    elif encode(old) != encode(new):
        yield f"{name}: {_short(old)} in the store, {_short(new)} now"


def _list_differences(old: list[Any], new: list[Any], name: str) -> Iterator[str]:
    if len(old) != len(new):
        yield f"{name}: {len(old)} items in the store, {len(new)} now"
        return
    lines = [
        line
        for i, (a, b) in enumerate(zip(old, new, strict=True))
        for line in differences(a, b, f"{name}.{i}")
    ]
    plain = not any(isinstance(item, dict) for item in old)
    if plain and len(lines) > 1:
        yield f"{lines[0]} (and {len(lines) - 1} more items of {name})"
    else:
        yield from lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def percent_encode(key: bytes) -> str:
    """A key in ASCII: letters, digits and "_.-~/" as they are, every other byte as %XX.

    Example:
        >>> percent_encode("n01/caf\\u00e9 1.jpg".encode())
        'n01/caf%C3%A9%201.jpg'
    """
    return quote_from_bytes(key, safe="/")


def percent_decode(text: str, file: str) -> bytes:
    """The inverse of `percent_encode`; only its own output is accepted.

    Raises:
        FormatError: the text is not such a key; `file` is named.
    """
    key = unquote_to_bytes(text)
    if percent_encode(key) != text or not 0 < len(key) <= MAX_KEY_BYTES:
        raise FormatError(f"{file} holds a key that is not percent-encoded: {ascii(text)[:80]}")
    return key


def printable(key: bytes) -> str:
    """A key for a message: what cannot be printed is escaped, so it cannot move the cursor."""
    text = key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def keys_digest(keys: Iterable[bytes]) -> str:
    """SHA-256 over all keys, each after its length as 4 little-endian bytes.

    Example:
        >>> keys_digest([b"a", b"b"])[:16]
        '37efc929c5c40fd7'
    """
    digest = hashlib.sha256()
    for key in keys:
        digest.update(len(key).to_bytes(4, "little") + key)
    return digest.hexdigest()
