"""Whole numbers of few bits each, one after the other without gaps, and read back from anywhere.

Bit j of packed bytes is bit j % 8 (1 = lowest) of byte j // 8, and a number begins with its lowest
bit. So the place and the width of a number are all that is needed to read it, and nothing has to be
unpacked before it.
"""

import numpy as np

MAX_WIDTH = 32  # bits of a number; with the 7 bits before it, it lies within 5 bytes
_BITS_AT_ONCE = 1 << 20  # wide labels have hundreds of millions of bits an image


def widths_of(numbers: np.ndarray) -> np.ndarray:
    """Bits that the largest number of each column needs, int64 (F,), for numbers (n, F)."""
    largest = numbers.max(axis=0, initial=0).astype(np.float64)
    widths: np.ndarray = np.frexp(largest)[1].astype(np.int64)
    return widths


def to_bits(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The bits of the numbers (n, F) row by row, uint8 0 or 1; column f takes widths[f] bits."""
    column = np.repeat(np.arange(len(widths)), widths)
    first = np.repeat(np.cumsum(widths) - widths, widths)
    shift = np.arange(len(column)) - first
    bits = np.empty((len(numbers), len(column)), np.uint8)
    step = max(1, _BITS_AT_ONCE // max(1, len(column)))
    for first_row in range(0, len(numbers), step):
        rows = slice(first_row, first_row + step)
        bits[rows] = (numbers[rows, column] >> shift) & 1
    return bits.reshape(-1)


def to_bytes(bits: np.ndarray) -> bytes:
    """Bits as bytes, with zeros after the last."""
    return np.packbits(bits, bitorder="little").tobytes()


def take_numbers(data: np.ndarray, places: np.ndarray, widths: np.ndarray | int) -> np.ndarray:
    """The numbers of so many bits that begin at these bits, int64; the arguments broadcast.

    Args:
        data: uint8, at least one byte. What lies beyond its end reads as anything.
        places: int64, counted from the first bit of `data`.
        widths: int64, at most `MAX_WIDTH`.
    """
    first = places >> 3
    found: np.ndarray = data.take(first, mode="clip").astype(np.int64)
    for byte in range(1, (int(np.max(widths, initial=0)) + 14) // 8):
        found |= data.take(first + byte, mode="clip").astype(np.int64) << (8 * byte)
    found >>= places & 7
    found &= (1 << np.asarray(widths)) - 1
    return found
