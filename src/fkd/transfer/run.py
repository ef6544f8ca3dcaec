"""Trains a detector, from its configuration to its final weights and their average precision."""

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from fkd.data.batches import load_batches
from fkd.engine.accelerators import start_accelerator
from fkd.engine.checkpoint import Checkpoints
from fkd.engine.durable import reading, replace_file, replace_text
from fkd.engine.logging import METRICS, Progress, read_metrics
from fkd.engine.loop import run
from fkd.engine.order import Order
from fkd.engine.recorder import recording
from fkd.engine.resume import resume
from fkd.engine.run_folder import FINAL_WEIGHTS, is_finished, open_run_folder
from fkd.engine.state import TrainState
from fkd.engine.trackers import require_trackers
from fkd.errors import RunError
from fkd.models.checkpoints import DETECTOR_FILE
from fkd.models.names import parse_model_name
from fkd.training.environment import describe_environment
from fkd.training.failures import explained_failures
from fkd.training.workers import count_workers, kind_of_workers, on_gpu
from fkd.transfer.config import FREE_FIELDS, TransferConfig, fill_in
from fkd.transfer.detectors import (
    Detector,
    card_to_json,
    count_parameters,
    require_resnet,
)
from fkd.transfer.loop import IMAGES, DetectionLoop, DetectionMethod
from fkd.transfer.measuring import RESULT_FILE, result_json
from fkd.transfer.setup import DetectionSetup, build_setup, open_data


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """The outcome of a run.

    Attributes:
        path: the run folder.
        num_steps: optimizer steps.
        seconds: training and validation time, over all starts.
        loss: mean loss of the last log line.
        figures: contents of result.json: "box" and "mask" hold AP, percent, where it was measured.
        leads: whether this is the main process, which reports to the user.
        already_finished: whether nothing was left to do.
    """

    path: Path
    num_steps: int
    seconds: float
    loss: float
    figures: dict[str, Any]
    leads: bool
    already_finished: bool


def train_detector(config: TransferConfig, progress: Progress | None = None) -> DetectionResult:
    """Train a detector, from the start or from where an earlier start was stopped.

    On the CPU the final weights are the same, bit for bit, however often the run was killed.

    Args:
        config: all settings, of task detection or segmentation.
        progress: callbacks, called on the main process.

    Raises:
        FKDError: something the user can repair.
        KeyboardInterrupt: SIGINT came (SystemExit: SIGTERM); a checkpoint was written first.
    """
    require_trackers(config.trackers)
    accelerator = start_accelerator(config.device, config.amp)
    with explained_failures(accelerator.num_processes):
        if config.backbone is not None:  # before a large file is read
            require_resnet(parse_model_name(config.backbone).architecture)
        data = open_data(config)
        filled = fill_in(config, len(data.chosen))
        path, settings, main = Path(config.out), asdict(filled), accelerator.is_main_process
        is_finished(path, settings, None, free=FREE_FIELDS)  # refuses before anything is loaded
        setup = build_setup(filled, data)
        environment = describe_environment(
            config.seed, accelerator.num_processes, accelerator.device, setup.identity
        )
        if is_finished(path, settings, environment, free=FREE_FIELDS):
            return _read_result(path, leads=main, already_finished=True)
        told = (progress or Progress()) if main else Progress()
        for remark in setup.remarks:
            told.remark(remark)
        detector = Detector(setup.network)
        state = TrainState.build(detector, DetectionMethod(), accelerator, filled.optimizer, None)
        folder = open_run_folder(path, settings, environment, free=FREE_FIELDS, main=main)
        with folder as checkpoints:
            accelerator.wait_for_everyone()  # the main process has checked the folder
            _train(filled, setup, state, checkpoints, told)
            accelerator.wait_for_everyone()
        accelerator.end_training()
        return _read_result(path, leads=main, already_finished=False)


def _train(
    config: TransferConfig,
    setup: DetectionSetup,
    state: TrainState,
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    """All steps that are left, and the final files."""
    accelerator, path = state.accelerator, Path(config.out)
    resumed = resume(state, checkpoints, progress.warn, resume_from=config.resume_from)
    loop = DetectionLoop(config, setup, accelerator)
    with recording(
        path,
        state,
        checkpoints,
        progress,
        settings=asdict(config),
        trackers=config.trackers,
        resumed=resumed,
        log_every=config.log_every,
        checkpoint_seconds=config.checkpoint_seconds,
        measure=IMAGES,
    ) as recorder:
        progress.begin(state.step, loop.order.num_steps, describe_run(config, setup, loop.order))
        batches = load_batches(
            loop.cutter,
            (chunk.requests for chunk in loop.order.chunks(state.step)),
            num_workers=count_workers(config),
            pin_memory=accelerator.device.type == "cuda",
            workers=kind_of_workers(config),
            bursts=not on_gpu(config),
        )
        with closing(batches):
            run(loop, state, recorder, batches)
    if accelerator.is_main_process:
        _save(path, setup, state.module.student)


def describe_run(config: TransferConfig, setup: DetectionSetup, order: Order) -> str:
    """What is going to be done, such as "12 epochs; 87,960 steps of 16 images; ..."."""
    everything, trained = count_parameters(setup.network)
    norm = "frozen batch norm" if setup.card.frozen_norm else "batch norm"
    return (
        f"{config.epochs} epoch{'s' * (config.epochs != 1)}; {order.num_steps:,} "
        f"step{'s' * (order.num_steps > 1)} of {order.batch_size} images; {everything:,} "
        f"parameters, {trained:,} trained, {norm}"
    )


def _save(path: Path, setup: DetectionSetup, model: nn.Module) -> None:
    """The final files of a run; the weights last, because they mean that the run is finished."""
    network = model.get_submodule("network")
    if setup.data.val is None:
        replace_text(path / RESULT_FILE, result_json(setup, {}))
    replace_text(path / DETECTOR_FILE, json.dumps(card_to_json(setup.card), indent=1) + "\n")
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    data = safetensors.torch.save(weights, metadata={"format": "pt"})
    replace_file(path / FINAL_WEIGHTS, lambda file: file.write(data))


def _read_result(path: Path, *, leads: bool, already_finished: bool) -> DetectionResult:
    trained = [line for line in read_metrics(path / METRICS) if "loss" in line]
    if not trained:
        raise RunError(f"{path / METRICS} is missing or damaged; the detector beside it is whole")
    with reading(path / RESULT_FILE):
        text = (path / RESULT_FILE).read_text(encoding="utf-8")
    try:
        figures = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path / RESULT_FILE} is damaged ({error}); give another --out") from error
    return DetectionResult(
        path=path,
        num_steps=int(trained[-1]["step"] or 0),
        seconds=read_metrics(path / METRICS)[-1]["seconds"] or 0.0,
        loss=trained[-1]["loss"] or 0.0,
        figures=figures,
        leads=leads,
        already_finished=already_finished,
    )
