"""Starts accelerate: the device, the precision and the processes of a run."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from fkd.errors import ConfigError
from fkd.models.devices import resolve_device


def start_accelerator(device: str | None, amp: str) -> Accelerator:
    """Device, precision and processes of a run.

    Args:
        device: as `resolve_device` takes it.
        amp: no, bf16 or fp16.

    Raises:
        ConfigError: the device is missing, or lacks the precision.
    """
    wanted = None if device is None else resolve_device(device)
    if not torch.distributed.is_initialized():
        # accelerate would otherwise keep the settings of an earlier run of this process.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Without a GPU, accelerate must know: it would not connect several processes.
    cpu = device == "cpu" or not torch.accelerator.is_available()
    if wanted is not None and wanted.type != "cpu" and ":" in str(device):
        torch.accelerator.set_device_index(wanted)
    # Otherwise accelerate sets a number of threads, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        accelerator = Accelerator(mixed_precision=amp, cpu=cpu)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"amp {amp} cannot be used here: {error}") from error
    if wanted is not None and accelerator.device.type != wanted.type:
        raise ConfigError(
            f"device: {device} is there, but training would run on "
            f"{accelerator.device.type}; use that, or cpu"
        )
    return accelerator
