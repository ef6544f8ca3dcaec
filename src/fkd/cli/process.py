"""How a command treats the processor and the memory of the machine it runs on.

Two defaults of the C libraries cost a network on a CPU several times its speed:

* glibc gives large buffers back to the system when they are freed and takes new pages for the next
  ones, in every layer. Labeling with EfficientNet-Lite0 on two threads, crops per second of CPU
  time, as it is / keeping freed memory: batches of 4, 28 / 31; of 16, 20 / 32; of 32, 11 / 33.
* OpenMP threads that wait for each other spin, and keep spinning while the one they wait for has
  lost its core to another process. Milliseconds of a training step (64 crops of 32 pixels, two
  threads on two cores, median of 12), alone / beside two busy processes:

      GNU's default                  31 / over 2,000     (RepVGG-like, 0.2 M weights)
      OMP_WAIT_POLICY=PASSIVE        95 / 66
      GOMP_SPINCOUNT=20000           33 / 39             ResNet-10: 193 / 204, default 195 alone
"""

import ctypes
import os
import sys

_SPINS = "20000"  # some 50 microseconds: most waits inside a network are shorter
# Parameters of mallopt, from glibc's malloc.h, and the values that are set.
_SETTINGS = {
    -3: 1 << 30,  # M_MMAP_THRESHOLD: from this size on a buffer is mapped for itself
    -1: (1 << 31) - 1,  # M_TRIM_THRESHOLD: this much free memory at the top is kept
    -8: 1,  # M_ARENA_MAX: one pool for all threads; those of threads are cut into 64 MiB pieces
}


def prepare_process() -> None:
    """Set up this process and its children; for commands, which own it, before torch is imported.

    A choice of the user's own (`OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`) stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if sys.platform.startswith("linux"):
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in _SETTINGS.items():
        mallopt(parameter, value)
