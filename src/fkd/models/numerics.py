"""How exactly a network computes: in float32 to the last bit, or in half precision."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Literal

import torch

Autocast = Literal["bf16", "fp16"]

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision(device: torch.device, autocast: Autocast | None) -> AbstractContextManager[None]:
    """The context for a forward pass on `device`.

    Without `autocast`, convolutions on a GPU are in full float32 (PyTorch's default there is TF32,
    with 10 bits of mantissa) and by deterministic algorithms.
    """
    if autocast is not None:
        return torch.autocast(device.type, dtype=_AUTOCAST_DTYPES[autocast])
    return exact_convolutions() if device.type == "cuda" else nullcontext()


class _Users:
    """Who is inside `exact_convolutions`: cuDNN has one setting for all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.settings = ExitStack()


_users = _Users()


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions in float32 by deterministic algorithms, until the last thread has left."""
    with _users.lock:
        if _users.count == 0:
            exact = torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
            _users.settings.enter_context(exact)
        _users.count += 1
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            if _users.count == 0:
                _users.settings.close()


@contextmanager
def exact_numerics() -> Iterator[int]:
    """Compute in full float32, reproducibly; yields how many forward passes to run side by side.

    A convolution that several CPU threads share is split by their number, and the last bits of its
    result change with it: measured for EfficientNet, MobileNetV3 and ConvNeXt at batches of 1 to 8.
    So each forward pass gets one thread, and as many passes run at a time as there were threads
    (no slower: 1.0 to 1.5 times the speed). The number of threads is torch's, e.g. from
    OMP_NUM_THREADS. Settings are those of the process; they are put back afterwards.
    """
    threads = torch.get_num_threads()
    matmul_precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield threads
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
        torch.set_num_threads(threads)
