"""One training run from its configuration to its final weights."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from fkd.data.batches import load_batches
from fkd.engine.checkpoint import Checkpoints
from fkd.engine.durable import replace_file, replace_text
from fkd.engine.logging import METRICS, Metrics, MetricsLog, Progress, read_metrics
from fkd.engine.loop import LoopConfig, run
from fkd.engine.order import Order
from fkd.engine.recorder import Recorder
from fkd.engine.run_folder import is_finished, open_run_folder
from fkd.engine.schedule import Pass, plan_passes
from fkd.engine.state import TrainState
from fkd.errors import ConfigError, RunError
from fkd.evaluation.accuracy import measure_accuracy
from fkd.models.checkpoints import CARD_FILE, CLASSES_FILE, MODEL_FILE
from fkd.training.config import (
    FREE_FIELDS,
    TrainConfig,
    count_workers,
    kind_of_workers,
    on_gpu,
)
from fkd.training.environment import describe_environment
from fkd.training.setup import TrainSetup, build_setup


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run; the figures are those of its metrics.jsonl.

    Attributes:
        path: the run folder.
        num_steps: optimizer steps of the run.
        seconds: training and validation time, over all starts.
        loss: mean loss of the last log line.
        val_top1, val_top5: accuracy after the last pass, percent; None without validation images.
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
    path, settings = Path(config.out), asdict(config)
    accelerator = _start_accelerator(config)
    main = accelerator.is_main_process
    if is_finished(path, settings, free=FREE_FIELDS):
        return _read_result(path, leads=main, already_finished=True)
    setup = build_setup(config, accelerator.device)
    state = TrainState.build(
        setup.student, setup.method, accelerator, config.optimizer, config.ema_decay
    )
    environment = describe_environment(
        config.seed, accelerator.num_processes, accelerator.device, setup.data
    )
    folder = open_run_folder(path, settings, environment, free=FREE_FIELDS, main=main)
    with folder as checkpoints:
        accelerator.wait_for_everyone()  # the main process has checked the folder
        with _translated_errors():
            _train(config, setup, state, checkpoints, progress if main else None)
        if main:
            _save(path, state.result, setup)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return _read_result(path, leads=main, already_finished=False)


def _train(
    config: TrainConfig,
    setup: TrainSetup,
    state: TrainState,
    checkpoints: Checkpoints,
    progress: Progress | None,
) -> None:
    """All steps that are left."""
    accelerator = state.accelerator
    resumed = checkpoints.load_newest()
    if resumed is not None:
        state.load_state(resumed)
    accelerator.wait_for_everyone()  # all have read before the main process writes the next one
    order = _build_order(config, setup, accelerator)
    log = MetricsLog(Path(config.out), state.step) if accelerator.is_main_process else None
    recorder = Recorder(
        state,
        log_every=config.log_every,
        checkpoint_seconds=config.checkpoint_seconds,
        log=log,
        checkpoints=checkpoints if accelerator.is_main_process else None,
        progress=progress,
        resumed=resumed,
    )
    if progress is not None:
        passes = describe_passes(order.passes, config.crops_per_image)
        description = f"{passes}; images decoded by {setup.decoder}"
        progress.begin(state.step, order.num_steps, description)
    batches = load_batches(
        setup.cutter,
        (chunk.requests for chunk in order.chunks(state.step)),
        num_workers=count_workers(config),
        pin_memory=accelerator.device.type == "cuda",
        workers=kind_of_workers(config),
        bursts=not on_gpu(config),  # then threads pause during a training step
    )
    try:
        run(_loop_config(config, setup, order, accelerator.device), state, recorder, batches)
    finally:
        if log is not None:
            log.close()


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn torch's errors about memory into RunError."""
    again = "the same command resumes from the last checkpoint"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU has too little memory; {again} on a larger one, or give another --out and a "
            "smaller batch_size or more accumulate_steps"
        ) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A worker that dies while it sends a batch closes the connection instead.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise RunError(
            f"a process that loads images was killed, perhaps for lack of memory; {again}, with "
            "fewer --num_workers if need be"
        ) from error


def _build_order(config: TrainConfig, setup: TrainSetup, accelerator: Accelerator) -> Order:
    return Order(
        images=setup.chosen,
        passes=plan_passes(config.epochs, config.crops_per_image, config.schedule),
        batch_size=config.batch_size,
        seed=config.seed,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        accumulate_steps=config.accumulate_steps,
    )


def _loop_config(
    config: TrainConfig, setup: TrainSetup, order: Order, device: torch.device
) -> LoopConfig:
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
    """Top-1 and top-5 accuracy on the validation images, percent."""
    assert setup.validation is not None
    accuracy = measure_accuracy(
        model,
        setup.validation,
        setup.card.preprocessing,
        device=device,
        num_workers=count_workers(config),
    )
    return {"val_top1": accuracy.top1, "val_top5": accuracy.top5}


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


def _start_accelerator(config: TrainConfig) -> Accelerator:
    """Device, precision and processes.

    Raises:
        ConfigError: the device is missing, or lacks the precision.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: there is no usable GPU; use cpu, or leave device out")
    if not torch.distributed.is_initialized():
        # accelerate would otherwise keep the settings of an earlier run of this process.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Without a GPU, accelerate must know: it would not connect several processes.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    # Otherwise accelerate sets a number of threads, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        return Accelerator(mixed_precision=config.amp, cpu=cpu)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"amp {config.amp} cannot be used here: {error}") from error


def _save(path: Path, model: nn.Module, setup: TrainSetup) -> None:
    """The final files; the weights last, because their presence means that the run is finished."""
    replace_text(path / CLASSES_FILE, json.dumps(setup.class_names, indent=1) + "\n")
    replace_text(path / CARD_FILE, json.dumps(setup.card.to_json(), indent=1) + "\n")
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    data = safetensors.torch.save(weights, metadata={"format": "pt"})
    replace_file(path / MODEL_FILE, lambda file: file.write(data))


def _read_result(path: Path, *, leads: bool, already_finished: bool) -> TrainResult:
    lines = read_metrics(path / METRICS)
    trained = [line for line in lines if "loss" in line][-1]
    evaluated = [line for line in lines if "val_top1" in line]
    last = evaluated[-1] if evaluated else {}
    return TrainResult(
        path=path,
        num_steps=int(trained["step"] or 0),
        seconds=lines[-1]["seconds"] or 0.0,
        loss=trained["loss"] or 0.0,
        val_top1=last.get("val_top1"),
        val_top5=last.get("val_top5"),
        leads=leads,
        already_finished=already_finished,
    )
