"""What an epoch (one crop of every image) costs, against training without and with a live teacher.

    ours     passes with m = 4 crops and stored labels; four epochs a pass
    vanilla  torchvision's loader, one crop an image, classes; no teacher at all
    kd       the teacher asked online about every crop, tuned as well as ours: our engine and loader
             at m = 4, our teacher (folded batch norms, channels-last), which looks at the crop of
             the student itself, so that nothing is cut twice

Student, optimizer and memory format are the same. A ratio of 1 against vanilla says that soft
labels are free; the ratio against kd is what asking the teacher once, in advance, saves every time.
"""

from contextlib import ExitStack
from dataclasses import replace

from benchmarks.harness import Side, Stream, alternate, compare
from benchmarks.loading import cutter_batches, our_stream, torchvision_stream, training_settings
from benchmarks.rows import Goal, Row, Skipped, per_second
from benchmarks.step import M, fkd
from benchmarks.training import NUM_CLASSES, engine_side, vanilla_side
from benchmarks.workbench import Workbench
from fkd.crops.replay import InputSpec
from fkd.crops.sampling import CropConfig
from fkd.data.batches import CropCutter
from fkd.data.crop_sources import FreshCropSource
from fkd.data.decoders import choose_decoder
from fkd.methods import MethodInputs
from fkd.methods.kd import KD
from fkd.models.teacher import Teacher, TeacherEnsemble
from fkd.models.zoo import load_model
from fkd.training.config import count_workers, loads_in_bursts

_NAME = f"epoch, m = {M}"
_KD = "online KD, {teacher}, tuned alike"


def measure(bench: Workbench) -> list[Row]:
    """Ours against both; without the teacher's weights, against vanilla alone."""
    workers, missing = count_workers(training_settings()), ""
    bursts = loads_in_bursts(training_settings())
    with ExitStack() as stack:
        ours, plain = our_stream(bench, M, workers, bursts), torchvision_stream(bench, workers)
        stack.callback(ours.close)
        stack.callback(plain.close)
        # Vanilla first: its workers are forked, which must be before there are threads.
        sides = {
            "vanilla": vanilla_side(bench, iter(plain)),
            "ours": engine_side(bench, iter(ours), fkd(bench)),
        }
        try:
            sides["kd"] = _kd_side(bench, workers, bursts, stack)
        except Skipped as reason:
            missing = str(reason)
        costs = alternate(sides, bench.scale.repeats)
    against = {
        "vanilla": ("plain torchvision training", Goal.times(1.0)),
        "kd": (_KD.format(teacher=bench.scale.teacher.name), Goal.times(1.5)),
    }
    rows = [
        Row.of(
            _NAME,
            compare(costs["ours"], costs[peer]),
            against=text,
            unit="crops / s",
            show=per_second,
            goal=goal,
            notes={"workers": workers, "student": bench.scale.student},
        )
        for peer, (text, goal) in against.items()
        if peer in costs
    ]
    return rows + ([Row(name=_NAME, against=against["kd"][0], skipped=missing)] if missing else [])


def _kd_side(bench: Workbench, workers: int, bursts: bool, stack: ExitStack) -> Side:
    """Online distillation in our engine."""
    teacher = tuned_teacher(bench)
    student = InputSpec(bench.scale.crop_size, "bilinear")
    method = KD(MethodInputs(num_classes=NUM_CLASSES, student=student, teacher=teacher))
    views = FreshCropSource(bench.source, CropConfig())
    cutter = CropCutter(
        bench.source, views, method.formats, decoder=choose_decoder(bench.source).decoder
    )
    batches = Stream(cutter_batches(bench, cutter, M, workers, bursts), len)
    stack.callback(batches.close)
    return engine_side(bench, iter(batches), method)


def tuned_teacher(bench: Workbench) -> TeacherEnsemble:
    """The teacher as fast as it gets in float32, seeing the student's own crops.

    Raises:
        Skipped: its weights are not here.
    """
    bench.require_teacher()
    config = bench.scale.teacher
    loaded = load_model(
        config.name,
        pretrained=config.checkpoint is None,
        checkpoint=config.checkpoint,
        input_size=bench.scale.crop_size,
    )
    teacher = Teacher(
        loaded.model,
        name=loaded.name,
        preprocessing=replace(loaded.preprocessing, interpolation="bilinear"),
        class_names=[f"class {c}" for c in range(loaded.num_classes)],
    )
    return TeacherEnsemble([teacher])
