"""How the images of a source are found in a store, and how those of the two differ."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from fkd.errors import StoreMismatch
from fkd.store.canonical import keys_digest, printable
from fkd.store.content import LABELED
from fkd.store.presence import NOT_HERE
from fkd.store.reader import LabelStore

Fingerprint: TypeAlias = Callable[[bytes], tuple[int, int]]  # key -> (crc32, length) of its file

_SHOWN = 3
_LABELED_ONLY = "use the images that were labeled and no others (images.subset names them)"


def join_images(
    store: LabelStore,
    keys: Sequence[bytes],
    *,
    num_bytes: Sequence[int] | None = None,
    fingerprint: Fingerprint | None = None,
    allow_missing: bool = False,
    way_out: str = "use the images that were labeled, or label these",
) -> np.ndarray:
    """The row of each image of a source in a store, int64 (n,), strictly ascending.

    Args:
        store: the labels.
        keys: of the source, ascending.
        num_bytes: lengths of the image files; with them, replaced images are found.
        fingerprint: (crc32, length) of the file of a key; with it, renamed images are told from
            missing ones. It is called for unknown images only.
        allow_missing: whether the source may lack images of the store.
        way_out: what to do about images that are missing, and nothing else, for a message.

    Raises:
        StoreMismatch: images are renamed, extra, replaced, or missing and not allowed to; counts
            them and names the first of each.
    """
    if not store.is_partial and keys_digest(keys) == store.config["keys_sha256"]:
        rows = np.arange(len(keys))
    else:
        rows = store.find(keys)
        sound = bool((rows >= 0).all() and (np.diff(rows) > 0).all())
        if not sound or not (allow_missing or len(rows) == store.num_images):
            reason = _describe_mismatch(store, keys, rows, fingerprint, allow_missing, way_out)
            raise StoreMismatch(f"{store.path} does not fit these images: {reason}")
    if num_bytes is not None:
        _require_lengths(store, keys, rows, np.asarray(num_bytes))
    return rows


def _require_lengths(
    store: LabelStore, keys: Sequence[bytes], rows: np.ndarray, num_bytes: np.ndarray
) -> None:
    # Checking every row would read the whole store; only those that differ are compared.
    facts = store.images(rows, check=False)
    replaced = np.flatnonzero((facts.num_bytes != num_bytes) & (facts.status == LABELED))
    if len(replaced):
        store.images(rows[replaced])
        (part,) = _count([keys[i] for i in replaced.tolist()], "replaced by other files")
        raise StoreMismatch(
            f"{store.path} does not fit these images: {part}; use the images that were labeled, or "
            "label these"
        )


def _describe_mismatch(
    store: LabelStore,
    keys: Sequence[bytes],
    rows: np.ndarray,
    fingerprint: Fingerprint | None,
    allow_missing: bool,
    way_out: str,
) -> str:
    """What differs between a store and a source, whose images have these rows, for a message."""
    extra = [keys[i] for i in np.flatnonzero(rows < 0).tolist()]
    row_of = dict(zip(store.keys(), store.present_rows.tolist(), strict=True))
    missing = sorted(row_of.keys() - set(keys))
    if not extra and (allow_missing or not missing):
        return "their keys are not in ascending order, each once; sort them as bytes"
    renamed = _find_renamed(store, extra, [(key, row_of[key]) for key in missing], fingerprint)
    old_keys = set(renamed.values())
    missing = [key for key in missing if key not in old_keys]
    parts = []
    if renamed:
        new, old = next(iter(renamed.items()))
        parts.append(f"{len(renamed)} renamed (first: {printable(old)} is now {printable(new)})")
    if not allow_missing:
        parts += _count(missing, "labeled but not there")
    unlabeled = [key for key in extra if key not in renamed]
    parts += _count(unlabeled, "there but not labeled")
    if (rows == NOT_HERE).any():
        parts.append(f"of the store {len(store.committed)} of {store.num_shards} shards are there")
    if unlabeled:
        way_out = f"{_LABELED_ONLY}, or label these"
    elif renamed:
        way_out = (
            "labels are found by the keys of images, which begin at images.root: give the images "
            "from where they were labeled, in the same format, or label these"
        )
    return f"{', '.join(parts)}; {way_out}"


def _find_renamed(
    store: LabelStore,
    extra: Sequence[bytes],
    missing: Sequence[tuple[bytes, int]],
    fingerprint: Fingerprint | None,
) -> dict[bytes, bytes]:
    """The old key of each new one whose file has the content of a missing image.

    Of images with the same content, which have the same labels, the first is taken for the first.
    """
    if fingerprint is None or not missing or not extra:
        return {}
    facts = store.images([row for _, row in missing])
    content = zip(facts.crc32.tolist(), facts.num_bytes.tolist(), strict=True)
    old_of: dict[tuple[int, int], deque[bytes]] = defaultdict(deque)
    for of_file, (key, _) in zip(content, missing, strict=True):
        old_of[of_file].append(key)
    return {key: same.popleft() for key in extra if (same := old_of.get(fingerprint(key)))}


def describe_difference(labeled: Sequence[bytes], keys: Sequence[bytes]) -> str:
    """Which images of two sets are in one of them only, counted and the first ones named.

    Args:
        labeled: keys of images with labels, ascending.
        keys: of the images that are there, ascending.
    """
    missing = sorted(set(labeled) - set(keys))
    extra = sorted(set(keys) - set(labeled))
    return ", ".join(
        _count(missing, "labeled but not there") + _count(extra, "there but not labeled")
    )


def _count(keys: Sequence[bytes], what: str) -> list[str]:
    if not keys:
        return []
    more = ", ..." if len(keys) > _SHOWN else ""
    return [f"{len(keys):,} {what} (first: {', '.join(map(printable, keys[:_SHOWN]))}{more})"]
