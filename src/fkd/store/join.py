"""How the images of a source differ from those of a store."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from fkd.store.canonical import printable
from fkd.store.content import ImageFacts

Fingerprint: TypeAlias = Callable[[bytes], tuple[int, int]]  # key -> (crc32, length) of its file


def describe_mismatch(
    stored: Sequence[bytes],
    keys: Sequence[bytes],
    facts_of: Callable[[np.ndarray], ImageFacts],
    fingerprint: Fingerprint | None,
) -> str:
    """What differs between a store and a source whose keys are not the same, for a message.

    Args:
        stored: the store's keys, by row.
        keys: the source's keys.
        facts_of: what the store knows of rows.
        fingerprint: checksum and length of a file of the source; without it nothing is recognized
            as renamed.
    """
    row_of = {key: row for row, key in enumerate(stored)}
    extra = [key for key in keys if key not in row_of]
    missing = sorted(row_of.keys() - set(keys))
    if not extra and not missing:
        return "their keys are not in ascending order, each once; sort them as bytes"
    renamed: dict[bytes, bytes] = {}  # new key to old
    if fingerprint is not None and missing:
        facts = facts_of(np.array([row_of[key] for key in missing]))
        content = zip(facts.crc32.tolist(), facts.num_bytes.tolist(), strict=True)
        old_of = dict(zip(content, missing, strict=True))
        renamed = {key: old for key in extra if (old := old_of.pop(fingerprint(key), None))}
    old_keys = set(renamed.values())
    parts = []
    if renamed:
        new, old = next(iter(renamed.items()))
        parts.append(f"{len(renamed)} renamed (first: {printable(old)} is now {printable(new)})")
    parts += _count([key for key in missing if key not in old_keys], "labeled but not there")
    parts += _count([key for key in extra if key not in renamed], "there but not labeled")
    return ", ".join(parts) + "; use the images that were labeled, or label these"


def describe_replaced(keys: Sequence[bytes]) -> str:
    """What to say of images whose file has another length, for a message."""
    (part,) = _count(keys, "replaced by other files")
    return f"{part}; use the images that were labeled, or label these"


def _count(keys: Sequence[bytes], what: str) -> list[str]:
    return [f"{len(keys)} {what} (first: {printable(keys[0])})"] if keys else []
