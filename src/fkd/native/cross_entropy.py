"""Sparse soft cross-entropy by the kernels of cross_entropy.c: single precision, on a CPU."""

import ctypes
from collections.abc import Callable
from itertools import pairwise
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from fkd.native import library

_WORTH_A_THREAD = 1 << 20  # logits, some 0.3 ms


def apply_to(logits: Tensor, index: Tensor | None, weight: Tensor, tail: Tensor) -> bool:
    """Whether the kernels take these logits and targets (see `cross_entropy`).

    They know addresses only: whatever does not fit is left to torch, which says what is wrong.
    """
    given = [logits, weight, tail] if index is None else [logits, weight, tail, index]
    return (
        all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in given)
        and all(tensor.device.type == "cpu" for tensor in given)
        and logits.dtype == weight.dtype == tail.dtype == torch.float32
        and (index is None or index.dtype == torch.int64)
        and weight.shape == (logits.shape if index is None else index.shape)
        and tail.shape == logits.shape[:1] == weight.shape[:1]
        and logits.is_contiguous()
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def cross_entropy(
    logits: Tensor, index: Tensor | None, weight: Tensor, tail: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, largest logit, and how far the log-sum-exp is above that, float32 (B,) each.

    Args:
        logits: (B, C), that the kernels apply to.
        index, weight, tail: of `fkd.targets.SoftTargets`, contiguous, int64 and float32.
        temperature: divides the logits.

    Raises:
        IndexError: a class of `index` is not in [0, C).
    """
    found = tuple(torch.empty_like(tail) for _ in range(3))
    kernel: Any = _kernels().fkd_cross_entropy
    refused = []

    def work(first: int, stop: int) -> None:
        arguments = _row_arguments(first, stop, logits, index, weight, tail, temperature)
        refused.append(kernel(*arguments, *(_pointer(t[first:]) for t in found)))

    _in_threads(work, logits)
    if any(refused):
        raise IndexError(f"a class of the targets is not in [0, {logits.shape[1]})")
    loss, largest, log_sum = found
    return loss, largest, log_sum


def cross_entropy_gradient(
    logits: Tensor,
    index: Tensor | None,
    weight: Tensor,
    tail: Tensor,
    temperature: float,
    largest: Tensor,
    log_sum: Tensor,
    grad_loss: Tensor,
) -> Tensor:
    """Gradient (B, C) of something in the logits, from its gradient (B,) in the losses.

    The other arguments are those of `cross_entropy`, which has accepted them, and its results.
    """
    gradient = torch.empty_like(logits)
    _kernels().fkd_want_large_pages(_pointer(gradient), ctypes.c_int64(gradient.nbytes))
    grad_loss = grad_loss.contiguous()
    kernel: Any = _kernels().fkd_cross_entropy_gradient

    def work(first: int, stop: int) -> None:
        arguments = _row_arguments(first, stop, logits, index, weight, tail, temperature)
        given = (_pointer(t[first:]) for t in (largest, log_sum, grad_loss, gradient))
        kernel(*arguments, *given)

    _in_threads(work, logits)
    return gradient


def _row_arguments(
    first: int,
    stop: int,
    logits: Tensor,
    index: Tensor | None,
    weight: Tensor,
    tail: Tensor,
    temperature: float,
) -> tuple[Any, ...]:
    """What both kernels are told of the rows from `first` to `stop`."""
    size = ctypes.c_int64
    return (
        *(_pointer(logits[first:]), size(stop - first), size(logits.shape[1])),
        None if index is None else _pointer(index[first:]),
        *(_pointer(weight[first:]), size(weight.shape[1]), _pointer(tail[first:])),
        ctypes.c_float(temperature),
    )


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _in_threads(work: Callable[[int, int], None], logits: Tensor) -> None:
    """Do all rows, on as many threads as torch uses, where that is worth it.

    The threads live for this call only: a pool would not survive a fork.
    """
    rows = len(logits)
    parts = max(1, min(torch.get_num_threads(), logits.numel() // _WORTH_A_THREAD, rows))
    edges = [rows * part // parts for part in range(parts + 1)]
    threads = [Thread(target=work, args=edge) for edge in pairwise(edges[1:])]
    for thread in threads:
        thread.start()
    work(0, edges[1])
    for thread in threads:
        thread.join()


def _kernels() -> ctypes.CDLL:
    kernels = library()
    assert kernels is not None
    return kernels
