"""Text files that name some images of a source: `--images.subset FILE`.

    # every second photograph        a comment
    ant/0.png                        an image key: its path below the root, with its extension
    ./bee/2.png                      the same as bee/2.png, as `find .` writes it

Lines are bytes and end in LF or CRLF; blank ones mean nothing. A name of no image is an error: a
subset that silently lacks images would be another one.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from fkd.errors import ConfigError
from fkd.store.canonical import printable
from fkd.userfiles import home_path, os_reason

if TYPE_CHECKING:
    from fkd.data.sources import ImageSource

_SHOWN = 3  # names of no image that a message shows
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16
_MARK = b"\xef\xbb\xbf"  # of UTF-8, which some editors put first
_MOST_COMPARED = 20_000  # keys that are compared letter by letter with an unknown name


def read_names(file: str) -> dict[bytes, list[int]]:
    """The image keys that a text file names, each with the numbers of its lines.

    Raises:
        ConfigError: it cannot be read, is no text, or names nothing.
    """
    try:
        data = home_path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"images.subset: {file} cannot be read: {reason}") from error
    if data.startswith(_BYTE_ORDER_MARKS) or b"\0" in data:
        raise ConfigError(
            f"images.subset: {file} is no text file of one path a line (it has NUL bytes or is "
            "UTF-16); save it as UTF-8"
        )
    lines: dict[bytes, list[int]] = {}
    for number, line in enumerate(data.removeprefix(_MARK).split(b"\n"), 1):
        name = line.removesuffix(b"\r")
        if name.strip() and not name.startswith(b"#"):
            lines.setdefault(name.removeprefix(b"./"), []).append(number)
    if not lines:
        raise ConfigError(
            f"images.subset: {file} names no image; write one path below the folder of the images "
            "a line, such as ant/0.png"
        )
    return lines


def find_named(source: "ImageSource", file: str) -> tuple[list[int], str]:
    """Positions of the images that a file names, ascending, and a remark on names given twice.

    Raises:
        ConfigError: as `read_names`, or it names images that are not there; counts them, and says
            of the first ones on which lines they are and which image may be meant.
    """
    lines = read_names(file)
    unknown = dict(lines)
    positions = [i for i in range(len(source)) if unknown.pop(source.key(i), None) is not None]
    if unknown:  # a space at the end of a line may be part of a name, but rarely is
        stripped = {name: name.strip() for name in unknown if name.strip() != name}
        found = _positions(source, stripped.values())
        positions = sorted({*positions, *found.values()})
        unknown = {
            name: where for name, where in unknown.items() if stripped.get(name) not in found
        }
    if unknown:
        raise ConfigError(_describe_unknown(source, file, unknown))
    repeated = sum(map(len, lines.values())) - len(positions)
    if not repeated:
        return positions, ""
    times = f"{repeated:,} line{'s' * (repeated != 1)}"
    return positions, f"{times} of {file} name an image again, which counts once"


def _positions(source: "ImageSource", keys: Iterable[bytes]) -> dict[bytes, int]:
    """The position of each of these keys that the source has."""
    wanted = set(keys)
    if not wanted:
        return {}
    return {key: i for i in range(len(source)) if (key := source.key(i)) in wanted}


def _describe_unknown(source: "ImageSource", file: str, unknown: dict[bytes, list[int]]) -> str:
    """What to say of names of no image."""
    suggest = _suggestions(source, list(unknown)[:_SHOWN])
    shown = [
        f"line {where[0]}: {printable(name)}{suggest(name)}"
        for name, where in list(unknown.items())[:_SHOWN]
    ]
    more = f"; and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
    count = f"{len(unknown):,} image{'s' * (len(unknown) != 1)}"
    return (
        f"images.subset: {file} names {count} that {source.root} does not have ({'; '.join(shown)}"
        f"{more}); write one path below it a line, extension included, such as "
        f"{printable(source.key(0))}"
    )


def _suggestions(source: "ImageSource", names: list[bytes]) -> Callable[[bytes], str]:
    """Which image a name may mean, as " (did you mean ...?)", or nothing.

    The first of these that one image alone meets: the same but for case, accents and slashes; the
    same without extension; the end of the other's path; the same name in another folder; and of not
    too many images, one that is spelled nearly so.
    """
    forms: tuple[Callable[[bytes], str], ...] = (_plain, _stem, _leaf, _stem_of_leaf)
    keys = [source.key(i) for i in range(len(source))]
    wanted = [{form(name) for name in names} for form in forms]
    by_form: list[dict[str, list[bytes]]] = [{} for _ in forms]
    for key in keys:
        for form, here, groups in zip(forms, wanted, by_form, strict=True):
            if (value := form(key)) in here:
                groups.setdefault(value, []).append(key)

    def suggest(name: bytes) -> str:
        ends = [key for key in by_form[2].get(_leaf(name), []) if _ends_in(name, key)]
        candidates = [by_form[n].get(form(name), []) for n, form in enumerate(forms)]
        for few in (candidates[0], candidates[1], ends, candidates[2], candidates[3]):
            if len(few) == 1:
                otherwise = ", with accents coded otherwise" if _looks_same(name, few[0]) else ""
                return f" (did you mean {printable(few[0])}{otherwise}?)"
        if len(keys) <= _MOST_COMPARED:
            texts = {printable(key): key for key in keys}
            near = get_close_matches(printable(name), texts, n=1, cutoff=0.8)
            return f" (did you mean {near[0]}?)" if near else ""
        return ""

    return suggest


def _plain(key: bytes) -> str:
    """A path without what differs between systems: case, composed accents, slashes."""
    return unicodedata.normalize("NFC", os.fsdecode(key).strip().replace("\\", "/")).casefold()


def _looks_same(name: bytes, key: bytes) -> bool:
    """Whether two names differ in their Unicode normalization only, hence look the same."""
    one, other = (unicodedata.normalize("NFC", os.fsdecode(path)) for path in (name, key))
    return one == other


def _stem(key: bytes) -> str:
    return os.path.splitext(_plain(key))[0]


def _leaf(key: bytes) -> str:
    return _plain(key).rpartition("/")[2]


def _stem_of_leaf(key: bytes) -> str:
    return os.path.splitext(_leaf(key))[0]


def _ends_in(name: bytes, key: bytes) -> bool:
    """Whether one path is the end of the other, as where the root is written before it."""
    a, b = "/" + _plain(name), "/" + _plain(key)
    return a.endswith(b) or b.endswith(a)
