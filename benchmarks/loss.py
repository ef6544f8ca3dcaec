"""Time and memory of the loss, forward and backward, from logits to their gradient.

    ours      soft cross-entropy straight from the sparse labels
    official  labels spread out to all classes, log-softmax, batched dot product
    dense     labels spread out, then F.cross_entropy
    ready     F.cross_entropy on dense labels that are there already, without counting them: the
              limit of everything that takes dense labels

Memory is what is allocated at the worst moment on top of the logits and the stored labels. The C
library keeps freed memory, as in all commands of fkd (`fkd.cli.process`); in a program that does
not do so large arrays cost more, on all sides.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import alternate, timed
from benchmarks.inputs import Inputs
from benchmarks.peers import densify, official_loss
from benchmarks.rows import Row, at_least, mebibytes, milliseconds
from benchmarks.stores import NUM_CLASSES, K, generated_labels
from fkd.labels.codecs import MarginalSmoothing
from fkd.labels.losses import SoftTargetLoss

_MORE_REPEATS = 5  # times as many with few classes, where one takes a millisecond or two
_AGAINST = {
    "official": "official densify + bmm",
    "dense": "densify + F.cross_entropy",
    "ready": "F.cross_entropy, dense labels given",
}


def measure_loss(inputs: Inputs) -> list[Row]:
    """A thousand classes, then many, and the memory of many."""
    crops, many = inputs.scale.loss_crops, inputs.scale.many_classes
    rows = []
    for num_classes, goals in (
        (NUM_CLASSES, {"official": None, "dense": at_least(0.87), "ready": at_least(0.75)}),
        (many, {"dense": at_least(1.0), "ready": None}),
    ):
        works = build_losses(crops, num_classes)
        sides = {name: timed(works[name]) for name in ("ours", *goals)}
        more = _MORE_REPEATS if num_classes == NUM_CLASSES else 1
        costs = alternate(sides, more * inputs.scale.cheap_repeats, warmups=2)
        rows += [
            Row.of(
                f"loss, C = {num_classes:,}, K = {K}, {crops:,} crops",
                costs["ours"],
                costs[peer],
                against=_AGAINST[peer],
                unit="ms",
                show=milliseconds,
                goal=goal,
                notes={"threads": torch.get_num_threads()},
            )
            for peer, goal in goals.items()
        ]
    # The works are now those of many classes.
    ours, dense = (float(peak_bytes(works[name])) for name in ("ours", "dense"))
    memory = Row.of(
        f"loss, peak memory, C = {many:,}",
        [ours],
        [dense],
        against=_AGAINST["dense"],
        unit="MiB",
        show=mebibytes,
        goal=at_least(2.5),
    )
    return [*rows, memory]


def build_losses(num_crops: int, num_classes: int) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward of every loss on the same logits and labels, to the gradient."""
    label = generated_labels(1, num_crops, seed=0)[0]
    assert label.ids is not None
    assert label.values is not None
    ids = label.ids * (num_classes // NUM_CLASSES)  # over the whole head
    targets = MarginalSmoothing(K).targets(replace(label, ids=ids), num_classes)
    stored = torch.from_numpy(np.stack([ids, label.values], axis=1)).float()
    ready = densify(stored, num_classes)
    logits = torch.randn(num_crops, num_classes, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    sparse_loss = SoftTargetLoss()

    def gradient(loss: Callable[[], Tensor]) -> Tensor:
        logits.grad = None
        loss().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        return logits.grad

    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: sparse_loss(logits, targets),
        "official": lambda: official_loss(logits, densify(stored, num_classes)),
        "dense": lambda: F.cross_entropy(logits, densify(stored, num_classes)),
        "ready": lambda: F.cross_entropy(logits, ready),
    }
    return {name: partial(gradient, loss) for name, loss in losses.items()}


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors that `work` has allocated at the same time.

    What it frees first, of an earlier call, does not reduce them.
    """
    with _no_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = (event.nbytes() for event in events if event.name() == "[memory]")
    held = [0, *itertools.accumulate(changes)]
    lowest = itertools.accumulate(held, min)
    return max(now - low for now, low in zip(held, lowest, strict=True))


@contextmanager
def _no_stderr() -> Iterator[None]:
    """The profiler's library writes about missing GPUs to standard error, past Python."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
