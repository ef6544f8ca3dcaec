"""The bytes of shards in memory, seen as numbers of any size."""

import numpy as np


class Memory:
    """A block of memory that holds shards, each beginning at a multiple of 8 bytes.

    Attributes:
        data: all of it.
        address: of its first byte.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._views: dict[int, np.ndarray] = {}
        self.address: int = self.items(1).ctypes.data

    def items(self, num_bytes: int) -> np.ndarray:
        """The memory as unsigned integers of this size."""
        if num_bytes not in self._views:
            count = len(self.data) // num_bytes
            self._views[num_bytes] = np.frombuffer(self.data, f"<u{num_bytes}", count)
        return self._views[num_bytes]
