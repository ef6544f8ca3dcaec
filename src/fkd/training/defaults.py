"""Settings that follow from the data where the user gives none, and what is odd about a run's.

The paper's values belong to 1.28 million images. A few hundred images with 1,024 crops per step
would be a handful of steps: a run that ends without an error and has learned nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from fkd.engine.order import Order
from fkd.methods import find_method
from fkd.training.config import (
    TrainConfig,
    all_passes,
    crops_per_image,
    pass_schedule,
    starts_from_weights,
)

_PAPER_BATCH_SIZE = 1024
_LEAST_BATCH_SIZE = 32  # batch norm estimates its statistics from it
_STEPS_PER_EPOCH = 16
_FEW_STEPS = 100
_SMALLEST_ADVISED_BATCH = 16
_FINE_TUNING = 0.1  # share of the rate from scratch that trained weights survive
_ALARMING = 3  # times that rate


def fill_defaults(config: TrainConfig, num_images: int, num_crops: int | None) -> TrainConfig:
    """The same settings with a number in the place of every default that depends on the data.

    Args:
        config: as the user gave them.
        num_images: how many there are to train on.
        num_crops: M of the store; None without one.
    """
    m = crops_per_image(config)
    if config.crops_per_image is None and num_crops is not None:
        m = min(m, num_crops)
    batch_size = config.batch_size
    if batch_size is None:
        batch_size = default_batch_size(num_images)
    optimizer = config.optimizer
    if optimizer.lr is None:
        optimizer = replace(optimizer, lr=_default_lr(config, batch_size))
    return replace(
        config,
        crops_per_image=m,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=pass_schedule(config),
    )


def default_batch_size(num_images: int) -> int:
    """Crops per step: a power of two that gives an epoch 16 steps or more, from 32 to 1024.

    Example:
        >>> [default_batch_size(number) for number in (600, 4000, 50_000)]
        [32, 128, 1024]
    """
    wanted = max(1, num_images // _STEPS_PER_EPOCH)
    return min(_PAPER_BATCH_SIZE, max(_LEAST_BATCH_SIZE, 1 << (wanted.bit_length() - 1)))


def odd_settings(config: TrainConfig, order: Order) -> Iterator[str]:
    """Sentences about settings with which a run ends, but can hardly learn.

    Args:
        config: all settings, their defaults filled in.
        order: of the run.
    """
    if order.num_steps < _FEW_STEPS:
        yield (
            f"the run has only {order.num_steps} optimizer step{'s' * (order.num_steps > 1)}, too "
            f"few to learn much; "
            f"{_more_steps(config, order)}"
        )
    limit = _FINE_TUNING * replace(config.optimizer, lr=None).peak_lr
    if starts_from_weights(config) and config.optimizer.peak_lr > _ALARMING * limit:
        yield (
            f"optimizer.lr {config.optimizer.peak_lr:g} soon overwrites the weights that the "
            f"student starts from; --optimizer.lr {limit:g} or less keeps what they know"
        )


def _default_lr(config: TrainConfig, batch_size: int) -> float:
    """The paper's rate, less by the root of a smaller batch, by which a gradient's noise grows.

    In proportion to the batch, SGD would be too slow for a few hundred images: 600 photos, batches
    of 32, 151 steps from scratch, top-1 of 10 classes: 9 %, by the root 20 % (one seed).
    """
    paper = config.optimizer.peak_lr
    lr = paper * math.sqrt(min(1.0, batch_size / _PAPER_BATCH_SIZE))
    return min(lr, _FINE_TUNING * paper) if starts_from_weights(config) else lr


def _more_steps(config: TrainConfig, order: Order) -> str:
    """Options that give a run enough steps."""
    step = 2 if find_method(config.method).needs_pairs else 1
    longer = next(
        epochs
        for epochs in count(config.epochs, step)
        if replace(order, passes=all_passes(replace(config, epochs=epochs))).num_steps >= _FEW_STEPS
    )
    smaller = 1 << ((order.batch_size - 1).bit_length() - 1)
    while smaller >= _SMALLEST_ADVISED_BATCH:
        if replace(order, batch_size=smaller).num_steps >= _FEW_STEPS:
            return f"give it --epochs {longer}, or --batch_size {smaller}"
        smaller //= 2
    return f"give it --epochs {longer}"
