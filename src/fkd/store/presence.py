"""Which images of a store are there, and in which shard a key would be.

Of a store some shards may be missing: a part that one machine has labeled, or the first shards of a
published store. Rows number the images of the whole store either way. Shards are in the order of
their keys, so the first keys of those that are known tell of any key where it can be:

    shard           0        1        2 (missing)    3
    first key       ant/0    bee/3    cat/1          cat/9      by the manifest
    key             ....ant/7....bee/4....cat/2..........dog/1

Of an unfinished store the first key of shard 2 is not known; cat/2 is behind the last key of shard
1 then, and that is enough.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np

from fkd.store.config import StoreConfig
from fkd.store.manifest import ShardEntry
from fkd.store.shard import Shard

UNKNOWN, NOT_HERE = -1, -2
"""In the place of a row: the store has no such image; or it may, in a shard that is not there."""


class Presence:
    """The shards of a store that are known, and those that are there.

    Args:
        config: of the store.
        entries: the known shards, by number.
        there: numbers of those that are there.

    Attributes:
        numbers: of the shards that are there, ascending.
    """

    def __init__(
        self, config: StoreConfig, entries: Sequence[ShardEntry], there: frozenset[int]
    ) -> None:
        self.numbers = sorted(there)
        self._config = config
        self._there = there
        self._known = [entry.number for entry in entries]
        self._first_keys = [entry.first_key for entry in entries]

    @property
    def is_whole(self) -> bool:
        """Whether all shards are there."""
        return len(self.numbers) == self._config.num_shards

    def ranges(self) -> list[range]:
        """The rows of each shard that is there, in order."""
        return [range(*self._config.shard_range(number)) for number in self.numbers]

    def rows(self) -> np.ndarray:
        """All rows that are there, ascending, int64."""
        parts = [np.arange(rows.start, rows.stop) for rows in self.ranges()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def shard_of(self, key: bytes) -> int:
        """The only shard that can hold a key; UNKNOWN for none, NOT_HERE for one that is not there.

        Where the next shard is not known, a key that this one lacks may be in it.
        """
        index = bisect_right(self._first_keys, key) - 1
        if index < 0:
            return UNKNOWN if self._known[:1] == [0] else NOT_HERE
        number = self._known[index]
        return number if number in self._there else NOT_HERE

    def find(self, keys: Sequence[bytes], open_shard: Callable[[int], Shard]) -> np.ndarray:
        """The row of each key, int64 (n,); UNKNOWN or NOT_HERE for a key that is not there.

        Args:
            keys: in any order.
            open_shard: the shard of a number that is there.
        """
        groups: dict[int, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(self.shard_of(key), []).append(position)
        rows = np.full(len(keys), UNKNOWN, np.int64)
        for number, positions in groups.items():
            if number < 0:
                rows[positions] = number
                continue
            shard = open_shard(number)
            local = shard.find([keys[position] for position in positions])
            rows[positions] = np.where(local < 0, UNKNOWN, local + shard.entry.first_image)
            if self._is_followed_by_unknown(number):
                last = shard.key(len(shard) - 1)
                rows[[position for position in positions if keys[position] > last]] = NOT_HERE
        return rows

    def _is_followed_by_unknown(self, number: int) -> bool:
        """Whether the shard behind this one is not known; keys behind its last may be there."""
        index = bisect_right(self._known, number)
        following = self._known[index] if index < len(self._known) else self._config.num_shards
        return following != number + 1


def are_within(numbers: np.ndarray, limit: int) -> bool:
    """Whether all of these int64 lie in [0, limit)."""
    listed = numbers.ravel().tolist()  # sooner checked than an array, of the few of a batch
    return not listed or (min(listed) >= 0 and max(listed) < limit)
