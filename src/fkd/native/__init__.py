"""Kernels in C for what is done for every crop or every logit: an addition, never a need.

    rows             rows of shards gathered and summed up (`fkd.store.rows`)
    cross_entropy    the sparse loss and its gradient on a CPU (`fkd.losses`)

They are compiled when the package is installed, if there is a C compiler, and reached by ctypes.
Whoever uses them has the same in numpy or torch, for machines without them; tests compare both.
Kernels know addresses and numbers: what they are given has been checked.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path

from fkd.native.building import LIBRARY, sources_digest

_FOLDER = Path(__file__).parent


@cache
def library(*, short_calls: bool = False) -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none, or not those of these sources.

    Args:
        short_calls: keep the interpreter's lock during calls. A thread that gives it up for some
            microseconds may wait milliseconds until a busy one gives it back.
    """
    file = _FOLDER / LIBRARY
    if sys.byteorder != "little" or not file.exists():
        return None
    try:
        kernels = (ctypes.PyDLL if short_calls else ctypes.CDLL)(str(file))
        compiled_from = kernels.fkd_sources
    except (OSError, AttributeError):
        return None
    compiled_from.restype = ctypes.c_char_p
    return kernels if compiled_from() == sources_digest(_FOLDER).encode() else None


def describe_kernels() -> str:
    """ "compiled", or why there are none and what to do about it."""
    if library() is not None:
        return "compiled"
    if not (_FOLDER / LIBRARY).exists():
        return "not there: install fkd where there is a C compiler"
    return "not of this version: install fkd once more"
