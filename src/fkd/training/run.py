"""One training run from its configuration to its final weights."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from fkd.data.batches import Batch, load_batches
from fkd.data.mixing import MixingConfig, sample_mix
from fkd.engine.durable import replace_file, replace_text
from fkd.engine.logging import METRICS, Metrics, MetricsLog, Progress, read_metrics
from fkd.engine.loop import LoopConfig, run
from fkd.engine.order import Order, StepInfo
from fkd.engine.recorder import Recorder
from fkd.engine.run_folder import RunFolder
from fkd.engine.schedule import Pass, learning_rate, plan_passes
from fkd.engine.state import TrainState
from fkd.errors import ConfigError, RunError
from fkd.evaluation import measure_accuracy
from fkd.models.checkpoints import CARD_FILE, CLASSES_FILE, MODEL_FILE
from fkd.training.config import (
    FREE_FIELDS,
    TrainConfig,
    count_workers,
    kind_of_workers,
    loads_in_bursts,
)
from fkd.training.environment import describe_environment
from fkd.training.setup import TrainSetup, build_setup


@dataclass(frozen=True)
class TrainResult:
    """What came of a run; the figures are those of its metrics.jsonl.

    Attributes:
        path: the run folder.
        num_steps: optimizer steps of the run.
        seconds: training and validation time, over all starts.
        loss: mean loss of the last log line.
        val_top1, val_top5: accuracy after the last pass, percent; None without validation images.
        leads: whether this is the main process, which tells people.
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
        progress: told how the run goes by, on the main process.

    Raises:
        FKDError: something a user can mend; see `build_setup`, `RunFolder.open`, `loop.run`.
        KeyboardInterrupt: SIGINT came (SystemExit: SIGTERM); a checkpoint was written first.
    """
    path, settings = Path(config.out), asdict(config)
    accelerator = _start_accelerator(config)
    main = accelerator.is_main_process
    if RunFolder.is_finished(path, settings, free=FREE_FIELDS):
        return _read_result(path, leads=main, already_finished=True)
    setup = build_setup(config, accelerator.device)
    method = setup.method
    learner = TrainState.build(
        setup.student, accelerator, config.optimizer, config.ema_decay, method.auxiliary_model
    )
    method.auxiliary_model = (
        learner.auxiliary_model
    )  # as it was prepared: on its device, distributed
    environment = describe_environment(
        config.seed, accelerator.num_processes, accelerator.device, setup.data
    )
    with RunFolder.open(path, settings, environment, free=FREE_FIELDS, main=main) as folder:
        accelerator.wait_for_everyone()  # the main process has checked the folder
        with _foreign_errors():
            _train(config, setup, learner, folder, progress if main else None)
        if main:
            _save(path, learner.result, setup)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return _read_result(path, leads=main, already_finished=False)


def _train(
    config: TrainConfig,
    setup: TrainSetup,
    learner: TrainState,
    folder: RunFolder,
    progress: Progress | None,
) -> None:
    """All steps that are left."""
    accelerator = learner.accelerator
    state = folder.checkpoints.load_newest()
    if state is not None:
        learner.load_state(state)
    accelerator.wait_for_everyone()  # all have read before the main process writes the next one
    passes = plan_passes(config.epochs, config.crops_per_image, config.schedule)
    plan = _plan(config, setup, accelerator, passes)
    log = MetricsLog(folder.path, learner.step) if accelerator.is_main_process else None
    recorder = Recorder(
        learner,
        log_every=config.log_every,
        checkpoint_seconds=config.checkpoint_seconds,
        log=log,
        checkpoints=folder.checkpoints if accelerator.is_main_process else None,
        progress=progress,
        state=state,
    )
    if progress is not None:
        parts = [describe_passes(passes, config.crops_per_image), f"images by {setup.decoder}"]
        if setup.calibration is not None:
            parts.append(str(setup.calibration))
        progress.begin(learner.step, plan.order.num_steps, "; ".join(parts))
    try:
        run(plan, learner, recorder)
    finally:
        if log is not None:
            log.close()


@contextmanager
def _foreign_errors() -> Iterator[None]:
    """What torch says when memory runs out, in our words."""
    again = "the same command goes on from the last checkpoint"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU has too little memory; {again} on a larger one, or give another --out and a "
            "smaller batch_size or more accumulate_steps"
        ) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A process that dies while it hands over a batch closes the connection instead.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise RunError(
            f"a process that loads images was killed, perhaps for lack of memory; {again}, with "
            "fewer --num_workers if need be"
        ) from error


def _plan(
    config: TrainConfig, setup: TrainSetup, accelerator: Accelerator, passes: list[Pass]
) -> LoopConfig:
    order = Order(
        images=setup.chosen,
        passes=passes,
        batch_size=config.batch_size,
        seed=config.seed,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        accumulate_steps=config.accumulate_steps,
    )
    on_gpu = accelerator.device.type == "cuda"

    def rate(place: StepInfo) -> float:
        epoch = place.epoch if config.schedule.per_step else place.of.epoch
        return learning_rate(config.schedule, config.optimizer.peak_lr, epoch, config.epochs)

    def mix(step: int, batch: Batch) -> Batch:
        return mix_batch(config.mixing, config.seed, step, batch)

    def evaluate(model: nn.Module) -> Metrics:
        assert setup.validation is not None
        accuracy = measure_accuracy(
            model,
            setup.validation,
            setup.preprocessing,
            device=accelerator.device,
            num_workers=count_workers(config),
        )
        return {"val_top1": accuracy.top1, "val_top5": accuracy.top5}

    return LoopConfig(
        order=order,
        load=lambda requests: load_batches(
            setup.cutter,
            requests,
            num_workers=count_workers(config),
            pin_memory=on_gpu,
            workers=kind_of_workers(config),
            bursts=loads_in_bursts(config),
        ),
        normalize=setup.preprocessing.normalize,
        mix=mix,
        method=setup.method,
        learning_rate=rate,
        evaluate=None if setup.validation is None else evaluate,
        evaluate_every=config.val_every,
        clip_grad=config.clip_grad,
        seed=config.seed,
    )


def mix_batch(config: MixingConfig, seed: int, step: int, batch: Batch) -> Batch:
    """What a step trains on: the batch itself, or its crops mixed with each other."""
    crops = batch.crops[0]
    size = (crops.shape[2], crops.shape[3])
    drawn = sample_mix(config, seed, step, len(batch), size, batch.crops_per_image)
    return batch if drawn is None else batch.mixed(drawn)


def describe_passes(passes: list[Pass], crops_per_image: int) -> str:
    """For example "74 passes with 4 crops per image, 4 with 1"."""
    counts = Counter(view.crops for view in passes)
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
        # accelerate keeps the settings of an earlier run of this process for ever otherwise.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Without a GPU, accelerate must be told so: it would start several processes without a link.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    # Where this is not said, accelerate chooses a number of threads of its own, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        return Accelerator(mixed_precision=config.amp, cpu=cpu)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"amp {config.amp} cannot be used here: {error}") from error


def _save(path: Path, model: nn.Module, setup: TrainSetup) -> None:
    """The final files; the weights last, for their presence says that the run is finished."""
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
