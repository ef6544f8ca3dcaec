"""Settings of torch under which a teacher's output depends on its input alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield threads
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
