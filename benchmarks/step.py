"""What a training step costs with everything: images from disk, m = 4, labels from the store.

The peer is the limit: the same student, optimizer and format on tensors that lie ready. Loader and
student share the cores of the machine, so on a CPU the ratio cannot be 1: a crop that takes 0.5 ms
to load beside a student that takes 7 ms costs 7 % of a core, and 1.0 is left to a second machine.
"""

from benchmarks.harness import alternate, compare
from benchmarks.loading import our_stream, training_settings
from benchmarks.rows import Goal, Row, per_second
from benchmarks.training import NUM_CLASSES, bare_side, engine_side
from benchmarks.workbench import Workbench
from fkd.crops.replay import InputSpec
from fkd.methods import MethodInputs
from fkd.methods.fkd import FKD
from fkd.training.config import count_workers, loads_in_bursts

M = 4


def measure(bench: Workbench) -> list[Row]:
    """Ours against the bare step."""
    workers = count_workers(training_settings())
    batches = our_stream(bench, M, workers, loads_in_bursts(training_settings()))
    try:
        sides = {"bare": bare_side(bench), "ours": engine_side(bench, iter(batches), fkd(bench))}
        costs = alternate(sides, bench.scale.repeats)
    finally:
        batches.close()
    return [
        Row.of(
            f"training step from disk, m = {M}",
            compare(costs["ours"], costs["bare"]),
            against=f"bare step of {bench.scale.student}, data ready",
            unit="crops / s",
            show=per_second,
            goal=Goal.times(0.9),
            notes={"workers": workers, "crops_per_step": bench.scale.batch_size},
        )
    ]


def fkd(bench: Workbench) -> FKD:
    """The method, for the student of the measurements."""
    student = InputSpec(bench.scale.crop_size, "bilinear")
    return FKD(MethodInputs(num_classes=NUM_CLASSES, student=student))
