"""Transfer to other classes: a student is fine-tuned under a new head, by `fkd.training`."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fkd.engine.accelerators import start_accelerator
from fkd.engine.durable import replace_text
from fkd.engine.logging import Progress
from fkd.engine.run_folder import is_finished
from fkd.errors import ConfigError
from fkd.evaluation.accuracy import measure_accuracy
from fkd.evaluation.multi_label import MultiLabelImages
from fkd.models.cards import read_card
from fkd.training.config import FREE_FIELDS, StudentConfig, TrainConfig
from fkd.training.failures import explained_failures
from fkd.training.run import TrainResult, train
from fkd.training.setup import build_setup, fill_in, open_data
from fkd.training.workers import count_workers
from fkd.transfer.config import TransferConfig
from fkd.transfer.measuring import RESULT_FILE
from fkd.userfiles import home_path

_EPOCHS = 30
_BACKBONE = "resnet50"  # of a file of weights, which does not say what it is of


@dataclass(frozen=True)
class ClassificationResult:
    """The outcome of a run.

    Attributes:
        trained: of `fkd.training.run.train`; its accuracy is that after fine-tuning.
        before: top-1 and top-5 before the first step, percent; None without validation images.
    """

    trained: TrainResult
    before: tuple[float, float] | None


def fine_tune(config: TransferConfig, progress: Progress | None = None) -> ClassificationResult:
    """Train all weights of a student on the classes of a folder.

    Before the first step the head is new, so accuracy is that of guessing, unless the classes are
    as many as before.

    Args:
        config: all settings, of task classification.
        progress: callbacks, called on the main process.

    Raises:
        FKDError: something the user can repair; see `train`.
    """
    settings = training_config(config)
    before = _measure_before(settings)
    trained = train(settings, progress)
    if trained.leads:
        replace_text(trained.path / RESULT_FILE, _result_json(before, trained))
    return ClassificationResult(trained, before)


def training_config(config: TransferConfig) -> TrainConfig:
    """The settings of `fkd train` for a transfer run.

    Rate, batch and schedule are those of `fkd train` for a student that starts from trained
    weights: SGD at 0.01 or less, falling as a cosine over 30 epochs, batches of a sixteenth of the
    images.
    """
    assert config.images is not None
    return TrainConfig(
        out=config.out,
        images=config.images,
        val=config.val,
        method="vanilla",
        student=_student(config),
        epochs=_EPOCHS if config.epochs is None else config.epochs,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        val_every=config.val_every,
        clip_grad=config.clip_grad,
        accumulate_steps=config.accumulate_steps,
        amp=config.amp,
        device=config.device,
        seed=config.seed,
        num_workers=config.num_workers,
        workers=config.workers,
        log_every=config.log_every,
        checkpoint_seconds=config.checkpoint_seconds,
        trackers=config.trackers,
        resume_from=config.resume_from,
    )


def _student(config: TransferConfig) -> StudentConfig:
    """The network to fine-tune, with the input of its weights."""
    if config.checkpoint is None:
        return StudentConfig(
            name=config.backbone or _BACKBONE, pretrained=True, input_size=config.input_size
        )
    path = home_path(config.checkpoint)
    if not path.is_dir():
        return StudentConfig(
            name=config.backbone or _BACKBONE,
            checkpoint=config.checkpoint,
            new_head=True,
            input_size=config.input_size,
        )
    card, _ = read_card(path)
    named = card.name if card is not None else None
    student = StudentConfig(
        name=config.backbone or named or _BACKBONE,
        checkpoint=config.checkpoint,
        new_head=True,
        input_size=config.input_size,
    )
    if card is None:
        return student
    return replace(student, interpolation=card.preprocessing.interpolation)


def _measure_before(config: TrainConfig) -> tuple[float, float] | None:
    """Top-1 and top-5 of the student that training starts from, over all processes."""
    if config.val is None:
        return None
    accelerator = start_accelerator(config.device, config.amp)
    with explained_failures(accelerator.num_processes):
        data = open_data(config)
        filled = fill_in(config, data)
        is_finished(Path(config.out), asdict(filled), None, free=FREE_FIELDS)  # refuses first
        setup = build_setup(filled, data, accelerator.device)
        assert setup.validation is not None
        if isinstance(setup.validation, MultiLabelImages):
            raise ConfigError(
                f"val: the images in {setup.validation.source.root} have several classes each; "
                "fine-tune by `fkd train --method vanilla --student.checkpoint FILE "
                "--student.new_head true`, which measures mean average precision"
            )
        accuracy = measure_accuracy(
            setup.student.to(accelerator.device),
            setup.validation,
            setup.card.preprocessing,
            device=accelerator.device,
            num_workers=count_workers(config),
        )
    return accuracy.top1, accuracy.top5


def _result_json(before: tuple[float, float] | None, trained: TrainResult) -> str:
    """Accuracy before and after, percent."""
    result: dict[str, Any] = {
        "before": None if before is None else {"top1": before[0], "top5": before[1]},
        "after": None
        if trained.val_top1 is None
        else {"top1": trained.val_top1, "top5": trained.val_top5},
        "steps": trained.num_steps,
        "loss": trained.loss,
    }
    return json.dumps(result, indent=2) + "\n"
