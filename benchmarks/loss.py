"""Time and memory of the loss, forward and backward, from logits to their gradient.

    ours      soft cross-entropy straight from the sparse labels
    official  labels spread out to all classes, log-softmax, batched dot product
    dense     labels spread out, then F.cross_entropy
    ready     F.cross_entropy on dense labels that are there already, without counting them: the
              limit of everything that takes dense labels

Memory is what is allocated at the worst moment on top of the logits and the stored labels.

Large arrays cost most where the C library gives freed memory back to the system and takes it again,
as glibc does by default; commands of fkd tell it not to. The wide head is measured both ways: as in
somebody's own loop, in a fresh interpreter, and as in `fkd train`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import official
from benchmarks.harness import alternate, compare, run_afresh, timed
from benchmarks.labels import K, generated_labels
from benchmarks.rows import Goal, Row, mebibytes, milliseconds
from benchmarks.workbench import Workbench
from fkd.labels.codecs import Encoded, MarginalSmoothing
from fkd.labels.losses import SoftTargetLoss

_CLASSES = 1000
_READY = Goal.times(round(1 / 1.15, 2))  # never slower than 1.15 times
_A_THIRD = Goal.times(2.9)  # one (B, C) array instead of three, and a little for the labels
_AGAINST = {
    "official": "official densify + bmm",
    "dense": "densify + F.cross_entropy",
    "ready": "F.cross_entropy, dense labels given",
}


_PROGRAM = """
import json, sys
from benchmarks.loss import time_losses
print(json.dumps(time_losses(*map(int, sys.argv[1:]))))
"""


def measure(bench: Workbench) -> list[Row]:
    """A thousand classes, then many."""
    small = {"official": (Goal.times(2.5), _A_THIRD), "ready": (_READY, None)}
    large = {"dense": (Goal.times(4.0), Goal.times(2.5)), "ready": (_READY, None)}
    return [
        *_measure(bench, _CLASSES, small),
        *_measure(bench, bench.scale.many_classes, large),
        _measure_afresh(bench, bench.scale.many_classes),
    ]


def time_losses(num_crops: int, num_classes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of our loss and of the dense one, in turn."""
    works = build_works(num_crops, num_classes)
    return alternate({name: timed(works[name]) for name in ("ours", "dense")}, repeats, warmups=2)


def _measure_afresh(bench: Workbench, num_classes: int) -> Row:
    """The wide head without `prepare_process`."""
    crops, repeats = bench.scale.loss_crops, bench.scale.cheap_repeats
    times = run_afresh(_PROGRAM, str(crops), str(num_classes), str(repeats))
    return Row.of(
        f"loss, C = {num_classes:,}, K = {K}, {crops:,} crops, memory as glibc has it",
        compare(times["ours"], times["dense"]),
        against=_AGAINST["dense"],
        unit="ms",
        show=milliseconds,
        goal=Goal.times(4.0),
        notes={"threads": torch.get_num_threads()},
    )


def _measure(
    bench: Workbench, num_classes: int, peers: dict[str, tuple[Goal, Goal | None]]
) -> list[Row]:
    """Rows of time, and of memory where there is a goal for it."""
    works = build_works(bench.scale.loss_crops, num_classes)
    chosen = {name: works[name] for name in ("ours", *peers)}
    times = alternate(
        {name: timed(work) for name, work in chosen.items()}, bench.scale.cheap_repeats, warmups=2
    )
    memory = {name: [float(peak_bytes(work))] for name, work in chosen.items()}
    what = f"C = {num_classes:,}, K = {K}, {bench.scale.loss_crops:,} crops"
    notes = {"threads": torch.get_num_threads()}
    rows = []
    for peer, (time_goal, memory_goal) in peers.items():
        line = partial(Row.of, against=_AGAINST[peer], notes=notes)
        found = compare(times["ours"], times[peer])
        rows.append(line(f"loss, {what}", found, unit="ms", show=milliseconds, goal=time_goal))
        if memory_goal is not None:
            found = compare(memory["ours"], memory[peer])
            name = f"loss, peak memory, C = {num_classes:,}"
            rows.append(line(name, found, unit="MiB", show=mebibytes, goal=memory_goal))
    return rows


def build_works(num_crops: int, num_classes: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of every loss on the same logits and labels."""
    index, value = (torch.from_numpy(a[0]) for a in generated_labels(1, num_crops, seed=0))
    index = index * (num_classes // _CLASSES)  # spread over the whole head
    logits = torch.randn(num_crops, num_classes, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    targets = MarginalSmoothing(K).targets(Encoded(index, value), num_classes)
    stored = torch.stack([index.float(), value], dim=1)
    ready = official.densify(stored, num_classes)
    loss = SoftTargetLoss()

    def learn(compute: Callable[[], Tensor]) -> None:
        logits.grad = None
        compute().backward()  # type: ignore[no-untyped-call]

    computations: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: loss(logits, targets),
        "official": lambda: official.dot_product_loss(
            logits, official.densify(stored, num_classes)
        ),
        "dense": lambda: F.cross_entropy(logits, official.densify(stored, num_classes)),
        "ready": lambda: F.cross_entropy(logits, ready),
    }
    return {name: partial(learn, compute) for name, compute in computations.items()}


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors that `work` has allocated at the same time.

    What it frees first, of an earlier call, is not set off against them.
    """
    with _silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    )
    held = least = most = 0
    for _, num_bytes in events:
        held += num_bytes
        least = min(least, held)
        most = max(most, held - least)
    return most


@contextmanager
def _silence() -> Iterator[None]:
    """The profiler's library writes about missing GPUs to standard error, past Python."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
