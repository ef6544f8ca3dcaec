"""A range of addresses in which the shards of a store are mapped side by side.

One array over the whole range reaches every shard, so that one indexed read serves a batch whose
images lie in many shards. Only addresses are reserved; files are mapped when they are needed, and
the descriptor is closed at once, so that no limit of open files is met.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from fkd.errors import StoreError

_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAP_FIXED = 0x10  # the same on Linux and macOS
_TOO_MANY = "too many mapped files for this system; make larger shards (--images_per_shard)"


class Region:
    """Room for files of the given lengths, each at a multiple of the page size.

    Raises:
        StoreError: there is not so much room.

    Attributes:
        lengths: of the files, bytes.
        memory: all of it; zeros where no file is mapped yet.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        page = mmap.ALLOCATIONGRANULARITY
        rounded = (-(-length // page) * page for length in self.lengths)
        *self._starts, total = accumulate(rounded, initial=0)
        try:
            reserved = mmap.mmap(-1, max(total, 1), flags=_ANONYMOUS, prot=mmap.PROT_READ)
        except (OSError, OverflowError) as error:
            raise StoreError(f"cannot make room for {total:,} bytes of shards: {error}") from error
        self.memory = memoryview(reserved)
        self._address = np.frombuffer(reserved, np.uint8).ctypes.data

    def start(self, number: int) -> int:
        """Where file `number` begins in the memory."""
        return self._starts[number]

    def map(self, number: int, descriptor: int) -> memoryview:
        """Map an open file of the announced length into its place, read-only; returns its bytes.

        Raises:
            OSError: the system refuses.
        """
        start, length = self._starts[number], self.lengths[number]
        address = self._address + start
        flags = mmap.MAP_SHARED | _MAP_FIXED
        found = _libc_mmap()(address, length, mmap.PROT_READ, flags, descriptor, 0)
        if found != address:
            code = ctypes.get_errno()
            raise OSError(code, _TOO_MANY if code == errno.ENOMEM else os.strerror(code))
        return self.memory[start : start + length]


@cache
def _libc_mmap() -> Any:
    """The mmap of the C library; Python's own cannot be told where."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    return function
