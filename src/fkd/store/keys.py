"""Image keys as bytes: how they are written in JSON, shown to people, and fingerprinted.

A key is the identity of an image in its source, usually its relative path: 1 to 4,096 bytes of any
kind. Nothing is stripped or normalized, so "a.jpg", "A.jpg" and two spellings of one accent differ.
"""

import hashlib
from collections.abc import Iterable
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fkd.errors import FormatError

MAX_KEY_BYTES = 4096


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
