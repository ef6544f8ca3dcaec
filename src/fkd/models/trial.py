"""A forward pass of noise before anything is written: does a network take crops of this size?

Libraries build a network for any input size and fail when it sees the first crop: a transformer
whose patches do not divide the side, a pooling that leaves nothing of small crops, a batch norm
that has a single value to take the deviation of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fkd.errors import ConfigError, reason_of
from fkd.models.devices import device_of
from fkd.models.preprocessing import Preprocessing

_CANDIDATES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 384)  # pixels, usual sides of crops
_SHOWN = 3


def try_network(model: nn.Module, preprocessing: Preprocessing, owner: str) -> None:
    """Classify one crop of noise; the network is in evaluation mode afterwards.

    Args:
        model: on any device.
        preprocessing: its input.
        owner: the network and its role, such as "teacher resnet50", for messages.

    Raises:
        ConfigError: the network cannot take crops of that size; names sizes that it takes.
    """
    model.eval()
    error = _error_of(model, preprocessing, 1)
    if error is not None:
        raise _unsuitable(model, preprocessing, owner, error) from error


def try_training(
    model: nn.Module, preprocessing: Preprocessing, owner: str, num_crops: int
) -> None:
    """A forward pass as in training, which leaves no trace in weights, statistics or random state.

    Args:
        model: on the CPU.
        preprocessing: its input.
        owner: the network and its role, for messages.
        num_crops: crops of the smallest forward pass of the run.

    Raises:
        ConfigError: the network cannot take crops of that size, or so few of them at a time.
    """
    was_training = model.training
    with _unchanged(model):
        model.train()
        error = _error_of(model, preprocessing, min(num_crops, 2))
        if error is not None and num_crops == 1 and _error_of(model, preprocessing, 2) is None:
            side = preprocessing.input_size
            raise ConfigError(
                f"{owner} cannot learn from a single crop of {side}x{side} pixels at a time "
                f"({reason_of(error, 160)}); use a larger batch_size, fewer accumulate_steps, or "
                "larger crops (--student.input_size)"
            ) from error
        if error is not None:
            raise _unsuitable(model, preprocessing, owner, error) from error
    model.train(was_training)


def _error_of(model: nn.Module, preprocessing: Preprocessing, num_crops: int) -> Exception | None:
    """What goes wrong with so many crops; None if nothing does."""
    try:
        with torch.no_grad():
            model(noise(model, preprocessing, num_crops))
    except torch.OutOfMemoryError:
        raise  # says nothing of the size itself
    except Exception as error:  # networks are strangers' code: asserts, shapes, anything
        return error
    return None


def noise(model: nn.Module, preprocessing: Preprocessing, num_crops: int) -> Tensor:
    """Crops of noise, always the same, as a network on any device takes them."""
    side = preprocessing.input_size
    generator = torch.Generator().manual_seed(0)
    shape = (num_crops, 3, side, side)
    crops = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return preprocessing.normalize(crops.to(device_of(model)))


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Statistics of batch norms and the random state are put back."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])


def _unsuitable(
    model: nn.Module, preprocessing: Preprocessing, owner: str, error: Exception
) -> ConfigError:
    side = preprocessing.input_size
    sizes = " or ".join(map(str, _working_sizes(model, preprocessing)))
    way_out = f"use {sizes} pixels" if sizes else "use the size that it was built for"
    return ConfigError(
        f"{owner} cannot take crops of {side}x{side} pixels ({reason_of(error, 160)}); {way_out} "
        "(input_size)"
    )


def _working_sizes(model: nn.Module, preprocessing: Preprocessing) -> list[int]:
    """Sizes that the network takes, the nearest first."""
    own = _own_size(model)
    if _is_fixed(model):  # others cannot be tried: it would have to be built anew
        sizes = {*_patch_multiples(model, preprocessing.input_size), *([own] if own else [])}
        return sorted(sizes - {preprocessing.input_size})
    candidates = sorted(
        {*_CANDIDATES, *([own] if own else [])} - {preprocessing.input_size},
        key=lambda side: abs(side - preprocessing.input_size),
    )
    count = 2 if model.training else 1
    working = []
    for side in candidates:
        if _error_of(model, preprocessing.changed(input_size=side), count) is None:
            working.append(side)
        if len(working) == _SHOWN:
            break
    return working or ([own] if own else [])


def _patch_multiples(model: nn.Module, side: int) -> list[int]:
    """The nearest sides that whole patches of a transformer cover."""
    patch: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    patch = patch[0] if isinstance(patch, tuple) else patch
    if not isinstance(patch, int):
        return []
    return [multiple for multiple in (side // patch * patch, -(-side // patch) * patch) if multiple]


def _is_fixed(model: nn.Module) -> bool:
    config: Any = getattr(model, "pretrained_cfg", None)
    return isinstance(config, dict) and bool(config.get("fixed_input_size"))


def _own_size(model: nn.Module) -> int | None:
    """The side for which the network was published, where its library says so."""
    config: Any = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    side = size[-1] if size else getattr(model, "image_size", None)
    return side if isinstance(side, int) else None
