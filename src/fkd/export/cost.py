"""What a network costs: parameters, operations, and milliseconds on this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fkd.export.config import LatencyConfig
from fkd.models.preprocessing import Preprocessing

_WARM_UP = 2  # runs that are not timed: memory is allocated, kernels are chosen
_FEWEST = 3


@dataclass(frozen=True)
class Size:
    """The size of a network.

    Attributes:
        parameters: numbers in its weights.
        macs: multiply-accumulate operations of convolutions, matrix products and attention, for
            one crop; those on binary values count like others.
        input_size: side of that crop, pixels.
    """

    parameters: int
    macs: int
    input_size: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass.

    Attributes:
        network: whose.
        runtime: what runs it.
        batch_size: crops.
        median_ms: of all runs.
        p10_ms: a tenth of the runs took less.
        p90_ms: a tenth took more.
        runs: n.
    """

    network: str
    runtime: str
    batch_size: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    @property
    def crops_per_second(self) -> float:
        """At the median."""
        return 1000 * self.batch_size / self.median_ms


@torch.no_grad()
def measure_size(model: nn.Module, expected: Preprocessing) -> Size:
    """Count parameters and operations of a network in eval mode, on the CPU."""
    side = expected.input_size
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Size(parameters, counter.get_total_flops() // 2, side)  # it counts both operations


@torch.inference_mode()
def measure_latency(
    run: Callable[[], object], config: LatencyConfig, network: str, runtime: str, batch_size: int
) -> Latency:
    """Time a forward pass, after two that are not timed.

    Args:
        run: the forward pass; it returns when the outputs are there.
        config: how often, and how long.
        network: for the result, as are `runtime` and `batch_size`.
    """
    for _ in range(_WARM_UP):
        run()
    times: list[float] = []
    while len(times) < config.runs:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
        if sum(times) > config.seconds and len(times) >= _FEWEST:
            break
    p10, median, p90 = (1000 * np.quantile(times, [0.1, 0.5, 0.9])).tolist()
    return Latency(network, runtime, batch_size, median, p10, p90, len(times))
