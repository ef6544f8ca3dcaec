"""Second half: the same small student trained four ways on real handwritten digits.

A larger network is trained first and becomes the teacher. Then one student, one seed, one schedule,
and only the origin of crops and targets differs: true classes, an online teacher, or the teacher's
stored labels with one and with four crops of an image in a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig
from fkd.demo.images import write_digits
from fkd.engine.logging import Progress, read_metrics
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import ScheduleConfig
from fkd.labeling.config import LabelConfig
from fkd.labeling.run import label
from fkd.labels.codecs import MarginalSmoothing
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig, TrainConfig
from fkd.training.run import train

TEACHER, TEACHER_EPOCHS = "resnet10t", 3
STUDENT, EPOCHS = "test_byobnet", 4  # the student's epochs are also the crops stored per image
_SIDE = 32  # digits have 28 pixels; both networks halve the side five times
_NO_LINES_WITHIN_A_PASS = 1_000_000


@dataclass(frozen=True)
class StudentRow:
    """One way to train the student.

    Attributes:
        name: of the way.
        accuracy: top-1 on the held-out digits, percent.
        seconds_per_epoch: training time for one crop of every image, without validation.
        relative_time: the same, over that of plain training.
        label_bytes: stored label bytes per image; 0 without a store.
    """

    name: str
    accuracy: float
    seconds_per_epoch: float
    relative_time: float
    label_bytes: float


@dataclass(frozen=True)
class DigitsResult:
    """The comparison.

    Attributes:
        num_train, num_test: digits.
        teacher_accuracy: top-1 of the teacher on the held-out digits, percent.
        labeling_seconds: the teacher's one run over all stored crops.
        rows: one per way of training, plain training first.
    """

    num_train: int
    num_test: int
    teacher_accuracy: float
    labeling_seconds: float
    rows: list[StudentRow]


def compare_methods(
    out: Path, announce: Callable[[str], Progress | None] = lambda what: None
) -> DigitsResult:
    """Train the teacher, label the digits, train the student four ways; all under `out`.

    `announce` is told what comes next and may answer with a listener for that training run.
    """
    num_train, num_test = write_digits(out / "digits")
    teacher_run = _settings(out, "teacher", TEACHER, TEACHER_EPOCHS, method="vanilla", crops=_CROPS)
    teacher_result = train(teacher_run, announce(f"teacher: {TEACHER}"))
    teacher = TeacherConfig(checkpoint=teacher_run.out)
    announce(f"labels: {EPOCHS} crops of {num_train:,} digits, once")
    labels = label(_label_settings(out, teacher))
    stored = {"method": "fkd", "store": str(labels.store.path)}
    ways: dict[str, dict[str, Any]] = {
        "true classes": {"method": "vanilla", "crops": _CROPS},
        "online KD": {"method": "kd", "teacher": teacher, "crops": _CROPS},
        "FKD, m = 1": stored,
        "FKD, m = 4": stored | {"crops_per_image": 4},
    }
    rows: list[StudentRow] = []
    for name, options in ways.items():
        run = _settings(out, name, STUDENT, EPOCHS, **options)
        accuracy = train(run, announce(f"student: {name}")).val_top1
        seconds = _seconds_per_epoch(Path(run.out), num_train)
        plain = rows[0].seconds_per_epoch if rows else seconds
        label_bytes = (
            labels.store.num_bytes / labels.store.num_images if "store" in options else 0.0
        )
        rows.append(StudentRow(name, accuracy or 0.0, seconds, seconds / plain, label_bytes))
    return DigitsResult(num_train, num_test, teacher_result.val_top1 or 0.0, labels.seconds, rows)


def _settings(out: Path, name: str, network: str, epochs: int, **options: Any) -> TrainConfig:
    folder = "".join(c if c.isalnum() else "-" for c in name)
    defaults: dict[str, Any] = {
        "out": str(out / "runs" / folder),
        "images": ImagesConfig(root=str(out / "digits" / "train")),
        "val": ImagesConfig(root=str(out / "digits" / "test")),
        "student": StudentConfig(name=network, input_size=_SIDE),
        "crops_per_image": 1,
        "epochs": epochs,
        "batch_size": 64,
        "optimizer": OptimizerConfig(name="adamw", lr=0.002),
        "schedule": _SCHEDULE,
        "log_every": _NO_LINES_WITHIN_A_PASS,
    }
    return TrainConfig(**(defaults | options))


def _label_settings(out: Path, teacher: TeacherConfig) -> LabelConfig:
    return LabelConfig(
        images=ImagesConfig(root=str(out / "digits" / "train")),
        out=str(out / "digit-labels"),
        teacher=teacher,
        num_crops=EPOCHS,
        crops=_CROPS,
        codec=MarginalSmoothing(5),
        batch_size=64,
    )


# So few epochs have no room for a staircase, nor for an ending with single crops.
_SCHEDULE = ScheduleConfig(per_step=True, single_crop_ending=False)
# A flipped digit is no digit, and a small crop of one is another.
_CROPS = CropConfig(scale=(0.6, 1.0), ratio=(0.8, 1.25), flip_prob=0.0)


def _seconds_per_epoch(run: Path, num_images: int) -> float:
    """Training time over epochs, from the log: one line per pass, with its crops per second."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "crops_per_second" in line]
    epochs = [float(line["epoch"] or 0) for line in lines]
    sizes = [after - before for before, after in zip([0.0, *epochs], epochs, strict=False)]
    speeds = [float(line["crops_per_second"] or 0) for line in lines]
    seconds = sum(size * num_images / speed for size, speed in zip(sizes, speeds, strict=True))
    return seconds / epochs[-1]
