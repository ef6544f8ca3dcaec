"""Which images of a source are which images of a store, and what does not fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from fkd.store.keys import printable
from fkd.store.stored import ImageFacts

Fingerprint: TypeAlias = Callable[[bytes], tuple[int, int]]  # key -> (crc32, length) of its file
FactsOf: TypeAlias = Callable[[np.ndarray], ImageFacts]


@dataclass(frozen=True)
class JoinReport:
    """How the images of a source and of a store fit together.

    Attributes:
        rows: int64 (n,), the store's row of each image of the source; -1 where there is none.
        missing: keys of the store whose image is not in the source.
        extra: keys of the source that the store does not know.
        renamed: (old key, new key) of images with equal content.
        replaced: keys in both whose file has another length.
    """

    rows: np.ndarray
    missing: tuple[bytes, ...] = ()
    extra: tuple[bytes, ...] = ()
    renamed: tuple[tuple[bytes, bytes], ...] = ()
    replaced: tuple[bytes, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every image has its label and every label its image."""
        return not (self.missing or self.extra or self.renamed or self.replaced)

    def __str__(self) -> str:
        parts = []
        if self.renamed:
            old, new = self.renamed[0]
            parts.append(
                f"{len(self.renamed)} renamed (first: {printable(old)} is now {printable(new)})"
            )
        for keys, word in (
            (self.missing, "labeled but not there"),
            (self.extra, "there but not labeled"),
            (self.replaced, "replaced by other files"),
        ):
            if keys:
                parts.append(f"{len(keys)} {word} (first: {printable(keys[0])})")
        if not parts:
            return f"all {len(self.rows)} images fit"
        return ", ".join(parts) + "; use the images that were labeled, or label these"

    @property
    def found_rows(self) -> np.ndarray:
        """Rows of the images that are in both."""
        return self.rows[self.rows >= 0]

    def with_replaced(
        self, keys: Sequence[bytes], num_bytes: Sequence[int], facts: ImageFacts
    ) -> "JoinReport":
        """Also compare the lengths of the files; `facts` are those of `found_rows`."""
        found = np.flatnonzero(self.rows >= 0)
        differs = (facts.num_bytes != np.asarray(num_bytes)[found]) & (facts.status == 0)
        return replace(self, replaced=tuple(keys[i] for i in found[differs].tolist()))


def compare_keys(
    stored: Sequence[bytes],
    keys: Sequence[bytes],
    facts_of: FactsOf,
    fingerprint: Fingerprint | None,
) -> JoinReport:
    """Match keys of a source with those of a store, and unknown ones by content.

    Args:
        stored: the store's keys, by row.
        keys: the source's keys.
        facts_of: what the store knows of rows.
        fingerprint: checksum and length of a file of the source; without it nothing is recognized
            as renamed.
    """
    row_of = {key: row for row, key in enumerate(stored)}
    rows = np.array([row_of.get(key, -1) for key in keys], np.int64)
    extra = [keys[i] for i in np.flatnonzero(rows < 0).tolist()]
    missing = sorted(row_of.keys() - set(keys))
    renamed = {}
    if fingerprint is not None and missing:
        facts = facts_of(np.array([row_of[key] for key in missing]))
        content = zip(facts.crc32.tolist(), facts.num_bytes.tolist(), strict=True)
        old_of = dict(zip(content, missing, strict=True))
        renamed = {key: old for key in extra if (old := old_of.pop(fingerprint(key), None))}
    return JoinReport(
        rows=rows,
        missing=tuple(key for key in missing if key not in set(renamed.values())),
        extra=tuple(key for key in extra if key not in renamed),
        renamed=tuple((old, new) for new, old in renamed.items()),
    )
