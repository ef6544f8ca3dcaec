"""One training run from its configuration to its final weights."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from fkd.data.batches import Batch, load_batches
from fkd.data.decoders import DecoderReport
from fkd.engine.accelerators import start_accelerator
from fkd.engine.checkpoint import Checkpoints
from fkd.engine.logging import METRICS, Metrics, Progress, read_metrics
from fkd.engine.loop import LoopConfig, run
from fkd.engine.order import Order
from fkd.engine.recorder import recording
from fkd.engine.resume import resume
from fkd.engine.run_folder import is_finished, open_run_folder
from fkd.engine.schedule import Pass
from fkd.engine.state import TrainState
from fkd.engine.trackers import require_trackers
from fkd.errors import RunError
from fkd.evaluation.accuracy import measure_accuracy
from fkd.evaluation.multi_label import MultiLabelImages, measure_multi_label
from fkd.evaluation.neighbors import measure_neighbors
from fkd.methods import find_method
from fkd.models.compiling import compile_network, require_compiler
from fkd.models.trial import try_training
from fkd.training.config import (
    FREE_FIELDS,
    TrainConfig,
    all_passes,
    crops_per_image,
)
from fkd.training.defaults import default_batch_size, odd_settings
from fkd.training.environment import describe_environment
from fkd.training.failures import explained_failures
from fkd.training.setup import TrainData, TrainSetup, build_setup, fill_in, open_data
from fkd.training.students import save_student
from fkd.training.workers import count_workers, kind_of_workers, on_gpu

_EVALUATED = {"val_top1", "val_knn", "val_map"}


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run; the figures are those of its metrics.jsonl.

    Attributes:
        path: the run folder.
        num_steps: optimizer steps of the run.
        seconds: training and validation time, over all starts.
        loss: mean loss of the last log line.
        val_top1, val_top5: accuracy after the last pass, percent; None without validation images,
            and of a student of embeddings.
        val_knn: of such a student, accuracy of the nearest neighbors among them.
        val_map: mean average precision on images with several classes each, percent.
        leads: whether this is the main process, which reports to the user.
        already_finished: whether nothing was left to do.
    """

    path: Path
    num_steps: int
    seconds: float
    loss: float
    val_top1: float | None
    val_top5: float | None
    leads: bool
    already_finished: bool
    val_knn: float | None = None
    val_map: float | None = None


def train(config: TrainConfig, progress: Progress | None = None) -> TrainResult:
    """Train a student, from the start or from where an earlier start was stopped.

    On the CPU the final weights are the same, bit for bit, however often the run was killed. With
    torchrun or `accelerate launch`, every process calls this function.

    Args:
        config: all settings.
        progress: callbacks, called on the main process.

    Raises:
        FKDError: something the user can repair; see `build_setup`, `open_run_folder`, `loop.run`.
        KeyboardInterrupt: SIGINT came (SystemExit: SIGTERM); a checkpoint was written first.

    Example:
        >>> from fkd import ImagesConfig, TrainConfig, train
        >>> from fkd.training.config import StudentConfig
        >>> config = TrainConfig(
        ...     images=ImagesConfig(root="photos"),
        ...     store="labels",
        ...     student=StudentConfig(name="test_resnet", input_size=32),
        ...     crops_per_image=2,
        ...     epochs=2,
        ...     batch_size=10,
        ...     num_workers=0,
        ...     device="cpu",
        ...     out="run",
        ... )
        >>> train(config).num_steps
        4
    """
    require_trackers(config.trackers)
    accelerator = start_accelerator(config.device, config.amp)
    with explained_failures(accelerator.num_processes):
        data = open_data(config)
        return _run(fill_in(config, data), data, accelerator, progress or Progress())


def _run(
    config: TrainConfig, data: TrainData, accelerator: Accelerator, progress: Progress
) -> TrainResult:
    """Train with settings whose defaults are filled in."""
    path, settings, main = Path(config.out), asdict(config), accelerator.is_main_process
    is_finished(path, settings, None, free=FREE_FIELDS)  # refuses before anything is loaded
    if config.compile:
        require_compiler(accelerator.device)
    setup = build_setup(config, data, accelerator.device)
    environment = describe_environment(
        config.seed, accelerator.num_processes, accelerator.device, setup.data
    )
    if is_finished(path, settings, environment, free=FREE_FIELDS):
        return _read_result(path, leads=main, already_finished=True)
    if main:
        for remark in setup.remarks:
            progress.remark(remark)
    try_training(
        setup.student,
        setup.card.preprocessing,
        f"student {setup.card.name}",
        build_order(config, setup, accelerator).fewest_crops,
    )
    if config.compile:
        compile_network(setup.student)
    state = TrainState.build(
        setup.student, setup.method, accelerator, config.optimizer, config.ema_decay
    )
    folder = open_run_folder(path, settings, environment, free=FREE_FIELDS, main=main)
    with folder as checkpoints:
        accelerator.wait_for_everyone()  # the main process has checked the folder
        _train(config, setup, state, checkpoints, progress if main else Progress())
        if main:
            save_student(path, state.result, setup.card, setup.class_names)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return _read_result(path, leads=main, already_finished=False)


def _train(
    config: TrainConfig,
    setup: TrainSetup,
    state: TrainState,
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    """All steps that are left."""
    accelerator = state.accelerator
    resumed = resume(state, checkpoints, progress.warn, resume_from=config.resume_from)
    order = build_order(config, setup, accelerator)
    with recording(
        Path(config.out),
        state,
        checkpoints,
        progress,
        settings=asdict(config),
        trackers=config.trackers,
        resumed=resumed,
        log_every=config.log_every,
        checkpoint_seconds=config.checkpoint_seconds,
    ) as recorder:
        description = f"{describe_run(config, order, setup.decoder)}; {setup.inputs}"
        progress.begin(state.step, order.num_steps, description)
        for sentence in odd_settings(config, order):
            progress.warn(sentence)
        with closing(open_batches(config, setup, order, state)) as batches:
            run(loop_config(config, setup, order, accelerator.device), state, recorder, batches)


def open_batches(
    config: TrainConfig, setup: TrainSetup, order: Order, state: TrainState
) -> Generator[Batch, None, None]:
    """The batches of a run from the state's step on; to be closed."""
    return load_batches(
        setup.cutter,
        (chunk.requests for chunk in order.chunks(state.step)),
        num_workers=count_workers(config),
        pin_memory=state.accelerator.device.type == "cuda",
        workers=kind_of_workers(config),
        bursts=not on_gpu(config),  # then threads pause during a training step
    )


def build_order(config: TrainConfig, setup: TrainSetup, accelerator: Accelerator) -> Order:
    """Which images are in which step of a run."""
    return Order(
        images=setup.chosen,
        passes=all_passes(config),
        batch_size=config.batch_size or default_batch_size(len(setup.chosen)),
        seed=config.seed,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        accumulate_steps=config.accumulate_steps,
    )


def loop_config(
    config: TrainConfig, setup: TrainSetup, order: Order, device: torch.device
) -> LoopConfig:
    """What happens in a run, for `fkd.engine.loop`."""
    return LoopConfig(
        order=order,
        normalize=setup.card.preprocessing.normalize,
        mixing=config.mixing,
        method=setup.method,
        schedule=config.schedule,
        peak_lr=config.optimizer.peak_lr,
        epochs=config.epochs,
        evaluate=None if setup.validation is None else partial(_evaluate, config, setup, device),
        evaluate_every=config.val_every,
        clip_grad=config.clip_grad,
        seed=config.seed,
    )


def _evaluate(
    config: TrainConfig, setup: TrainSetup, device: torch.device, model: nn.Module
) -> Metrics:
    """Accuracy on the validation images, percent: top-1 and top-5, or that of neighbors, or mean
    average precision and F1."""
    assert setup.validation is not None
    expected, num_workers = setup.card.preprocessing, count_workers(config)
    if isinstance(setup.validation, MultiLabelImages):
        scores = measure_multi_label(
            model, setup.validation, expected, device=device, num_workers=num_workers
        )
        return {"val_map": scores.mean_ap, "val_micro_f1": scores.micro_f1}
    if find_method(config.method).learns_embeddings:
        top1 = measure_neighbors(
            model, setup.validation, expected, device=device, num_workers=num_workers
        )
        return {"val_knn": top1}
    accuracy = measure_accuracy(
        model, setup.validation, expected, device=device, num_workers=num_workers
    )
    return {"val_top1": accuracy.top1, "val_top5": accuracy.top5}


def describe_run(config: TrainConfig, order: Order, decoder: DecoderReport) -> str:
    """What is going to be done, such as "2 passes with 4 crops per image; 80 steps of 32 crops"."""
    passes = describe_passes(order.passes, crops_per_image(config))
    steps = f"{order.num_steps:,} step{'s' * (order.num_steps > 1)} of {order.batch_size:,} crops"
    return f"{passes}; {steps}; images decoded by {decoder}"


def describe_passes(passes: Sequence[Pass], crops_per_image: int) -> str:
    """For example "74 passes with 4 crops per image, 4 with 1"."""
    counts = Counter(of_pass.crops_per_image for of_pass in passes)
    (most, number), *others = sorted(counts.items(), reverse=True)
    first = f"{number} pass{'es' * (number > 1)} with {most} crop{'s' * (most > 1)} per image"
    described = ", ".join([first, *(f"{number} with {crops}" for crops, number in others)])
    if most == crops_per_image:
        return described
    return (
        f"{described}; a run this short is all single-crop ending, turn that off by "
        f"--schedule.single_crop_ending false to use {crops_per_image}"
    )


def _read_result(path: Path, *, leads: bool, already_finished: bool) -> TrainResult:
    lines = read_metrics(path / METRICS)
    trained = [line for line in lines if "loss" in line]
    if not trained:
        raise RunError(f"{path / METRICS} is missing or damaged; the student beside it is whole")
    evaluated = [line for line in lines if _EVALUATED & line.keys()]
    last = evaluated[-1] if evaluated else {}
    return TrainResult(
        path=path,
        num_steps=int(trained[-1]["step"] or 0),
        seconds=lines[-1]["seconds"] or 0.0,
        loss=trained[-1]["loss"] or 0.0,
        val_top1=last.get("val_top1"),
        val_top5=last.get("val_top5"),
        leads=leads,
        already_finished=already_finished,
        val_knn=last.get("val_knn"),
        val_map=last.get("val_map"),
    )
