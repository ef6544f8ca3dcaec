"""Random numbers as pure functions of their address.

Draws in `fkd` are addressed, not consumed: (seed, image key) picks a stream, (purpose, number) a
position in it. The same crop therefore gets the same box for any number of processes, workers or
restarts, and no library upgrade can change it.

The generator is Philox4x32-10, checked against the published known answers.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_ROUNDS = 10
_WEYL_SUMS = np.arange(_ROUNDS, dtype=np.uint64)[:, None] * np.array(
    [0x9E3779B9, 0xBB67AE85], np.uint64
)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Purpose(IntEnum):
    """What a number is drawn for; draws of different purposes are independent."""

    CROP = 0
    AUGMENT = 1
    VIEW_ORDER = 2
    IMAGE_ORDER = 3
    MIX = 4
    PROBE = 5
    STEP = 6
    STUDENT_AUGMENT = 7
    BANK = 8
    LABEL = 9
    PROJECTION = 16


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox4x32: uint32 counters (..., 4) and keys (..., 2) to uint32 (..., 4)."""
    # Words 0 and 2 go through the same operations, and so do words 1 and 3: one axis for the pair.
    words = np.moveaxis(counter, -1, 0).astype(np.uint64, order="C")
    even, odd = words[0::2], words[1::2]
    pair = (2, *(1,) * (counter.ndim - 1))
    multiplier = _MULTIPLIERS.reshape(pair)
    first_key = np.moveaxis(key, -1, 0).astype(np.uint64, order="C")
    for weyl in _WEYL_SUMS:
        product = even * multiplier
        even = (product >> _SHIFT)[::-1] ^ odd
        even ^= (first_key + weyl.reshape(pair)) & _LOW
        odd = (product & _LOW)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]], axis=-1).astype(np.uint32)


def stream_key(seed: int, key: bytes = b"") -> int:
    """The 64-bit stream of one image: BLAKE2b of the seed (8 bytes, little-endian) and the key."""
    digest = blake2b((seed % 2**64).to_bytes(8, "little") + key, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def stream_keys(seed: int, keys: Sequence[bytes]) -> np.ndarray:
    """The streams of many images, uint64 (len(keys),)."""
    return np.array([stream_key(seed, key) for key in keys], dtype=np.uint64)


def uniforms(streams: ArrayLike, purpose: Purpose, number: ArrayLike, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each (stream, number), float64 (..., count).

    `streams` (uint64) and `number` (uint64, e.g. the crop number) broadcast. Each value keeps 32
    random bits, enough to place a box edge in an image of 65,535 pixels to 1/65,536 of a pixel.
    """
    return uniform_blocks(streams, purpose, number, range(-(-count // 4)))[..., :count]


def uniform_blocks(
    streams: ArrayLike, purpose: Purpose, number: ArrayLike, blocks: Sequence[int]
) -> np.ndarray:
    """The draws 4 b .. 4 b + 3 of `uniforms` for each b of `blocks`, float64 (..., 4 len(blocks)).

    For callers that rarely need the draws in between.
    """
    stream, number = np.broadcast_arrays(
        np.asarray(streams, dtype=np.uint64), np.asarray(number, dtype=np.uint64)
    )
    counter = np.empty((*stream.shape, len(blocks), 4), dtype=np.uint32)
    counter[..., 0] = np.asarray(blocks, dtype=np.uint32)
    counter[..., 1] = (number & _LOW).astype(np.uint32)[..., None]
    counter[..., 2] = (number >> _SHIFT).astype(np.uint32)[..., None]
    counter[..., 3] = np.uint32(purpose)
    key = np.stack([stream & _LOW, stream >> _SHIFT], axis=-1).astype(np.uint32)
    bits = philox(counter, key[..., None, :])
    return bits.reshape(*stream.shape, len(blocks) * 4) * 2.0**-32


def permutations(streams: ArrayLike, purpose: Purpose, number: ArrayLike, size: int) -> np.ndarray:
    """A random order of range(size) for each (stream, number), int64 (..., size).

    Ranks of 32-bit draws; equal draws keep their order, so the result is the same everywhere.
    """
    return np.argsort(uniforms(streams, purpose, number, size), axis=-1, kind="stable")


def generator(seed: int, purpose: Purpose, number: int) -> np.random.Generator:
    """A NumPy generator for draws that are not uniform (e.g. Beta), seeded by its address."""
    bits = uniforms(stream_key(seed), purpose, number, 2)
    return np.random.Generator(np.random.Philox(key=(bits * 2**32).astype(np.uint64)))
