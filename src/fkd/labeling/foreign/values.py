"""What a pickle of labels may name, and what stands for it: arrays and tensors made of bytes.

Nothing here is numpy's or torch's own support of pickles, so a file can ask for nothing that is not
written on this page.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_BYTES = 1 << 26
"""Of a file, and of what is packed in it: 500 crops with labels of 21,841 classes take 44 MB."""

_MAX_DIMENSIONS = 8
_METADATA = 2  # of what follows the stride: whether it has a gradient, hooks, metadata
_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
STORAGES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "|b1",
}


class Refused(Exception):
    """What is wrong with a file, as part of a sentence."""


@dataclass(frozen=True)
class Storage:
    """Numbers of tensors: where they are, what they are, and how many."""

    key: str
    dtype: np.dtype[Any]
    numel: int

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class TensorParts:
    """A tensor whose numbers are not read yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.size) * self.storage.dtype.itemsize


class NumberKind:
    """Stands for a dtype while its byte order is still to come."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in _DTYPES:
            raise Refused(f"it has numbers of kind {name!r:.40}")
        self.name = name
        self.order = "<"

    def build(self, state: Any) -> None:
        """The state that numpy pickles of a dtype: version, byte order, nothing else."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise Refused("a kind of numbers in it is impossible")
        if any(part is not None for part in state[2:5]):
            raise Refused("it has numbers with fields")
        self.order = ">" if state[1] == ">" else "<"


class ArrayParts:
    """Stands for an array while its content is still to come."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """The state that numpy pickles of an array: version, shape, dtype, order, bytes."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array in it is impossible")
        _, shape, dtype, is_fortran, data = state
        if not is_shape(shape) or not isinstance(dtype, NumberKind) or not isinstance(data, bytes):
            raise Refused("an array in it is impossible")
        kind = np.dtype(dtype.order + dtype.name)
        if math.prod(shape) * kind.itemsize != len(data):
            raise Refused("an array in it is not as long as it says")
        flat = np.frombuffer(data, kind)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


class Name:
    """A name of the table, which a pickle may call and do nothing else with."""

    __slots__ = ("function", "name")

    def __init__(self, name: str, function: Callable[..., Any] | None) -> None:
        self.name = name
        self.function = function


def _make_array(kind: Any, *_: Any) -> ArrayParts:
    if not isinstance(kind, Name) or kind.name != "numpy.ndarray":
        raise Refused("it has an array of another class than numpy's")
    return ArrayParts()


def _make_dict(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise Refused("it makes a dict out of something")
    return {}


def _make_no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise Refused("it makes bytes out of something")
    return b""


def _make_tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> TensorParts:
    if not isinstance(storage, Storage):
        raise Refused("a tensor in it has no numbers")
    if not is_shape((offset,)) or not is_shape(size) or not is_shape(stride):
        raise Refused("the shape of a tensor in it is impossible")
    if more[_METADATA:] and more[_METADATA]:  # such as that all numbers have the other sign
        raise Refused("its numbers mean something else than they say")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.numel or (math.prod(size) and last >= storage.numel):
        raise Refused("a tensor in it is larger than its numbers")
    return TensorParts(storage, offset, size, stride)


CALLED: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _make_array,
    "numpy._core.multiarray._reconstruct": _make_array,
    "numpy.dtype": NumberKind,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "collections.OrderedDict": _make_dict,
    "__builtin__.bytes": _make_no_bytes,  # how protocol 2 spells b""
}


def is_shape(value: Any) -> bool:
    """Whether a value is a tuple of a few whole numbers, none negative."""
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n <= MAX_BYTES for n in value)
    )


def numbers_of(tensor: TensorParts, data: bytes) -> np.ndarray:
    """The tensor as an array of its own, from the bytes of its storage.

    Raises:
        Refused: these are not as many as the storage says.
    """
    storage = tensor.storage
    if len(data) != storage.num_bytes:
        raise Refused("a tensor in it has fewer numbers than it says")
    flat = np.frombuffer(data, storage.dtype)
    strides = tuple(step * storage.dtype.itemsize for step in tensor.stride)
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.size, strides, writeable=False
    )
    return np.array(view)
