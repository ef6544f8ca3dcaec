"""Where networks run: what torch offers on this machine, by its own names."""

from itertools import chain

import torch
from torch import nn

from fkd.errors import ConfigError, reason_of

_CPU = "cpu"


def resolve_device(device: str | None, local_rank: int = 0) -> torch.device:
    """The device that a setting means: a GPU for each process of a machine, or the CPU.

    Args:
        device: cpu, cuda, cuda:1, mps, xpu, ...; by default cuda if there is one, else the CPU.
        local_rank: number of this process on its machine, which picks one of several devices where
            none is named.

    Raises:
        ConfigError: there is no such device; names those that there are.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else _CPU
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise _unusable(device, "torch does not know it") from error
    if wanted.type == _CPU:
        return torch.device(_CPU)
    if wanted.type == "meta":
        raise _unusable(device, "it computes nothing")
    count, is_numbered = _count(wanted.type), ":" in device
    if count == 0:
        raise _unusable(device, "there is no such device, or this torch was built without it")
    if is_numbered and wanted.index >= count:
        raise _unusable(device, f"there {'is' if count == 1 else 'are'} {count}, counted from 0")
    if not is_numbered and (count > 1 or wanted.type == "cuda"):
        wanted = torch.device(wanted.type, local_rank % count)
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _unusable(device, reason_of(error)) from error
    return wanted


def available_devices() -> list[str]:
    """The names of all devices of this machine that torch can use, the CPU first."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return [_CPU]
    count = _count(accelerator.type)
    numbered = [f"{accelerator.type}:{i}" for i in range(count)]
    return [_CPU, *(numbered if count > 1 else [accelerator.type])]


def device_of(model: nn.Module) -> torch.device:
    """Where a network is; the CPU for one without weights."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device(_CPU))


def describe_device(device: torch.device) -> str:
    """What a device is called by its maker, or else by torch."""
    if device.type in ("cuda", "xpu"):
        return str(torch.get_device_module(device).get_device_name(device))
    return device.type


def _count(kind: str) -> int:
    """Usable devices of a kind; 0 where torch was built without it."""
    try:
        module = torch.get_device_module(kind)
    except RuntimeError:
        return 0
    if not getattr(module, "is_available", lambda: False)():
        return 0
    return int(module.device_count()) if hasattr(module, "device_count") else 1


def _unusable(device: str, reason: str) -> ConfigError:
    return ConfigError(
        f"device: {device!r} cannot be used here: {reason}; use {' or '.join(available_devices())}"
    )
