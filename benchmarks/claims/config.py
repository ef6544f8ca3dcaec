"""The settings of the comparisons."""

from dataclasses import dataclass, field
from typing import Literal

from fkd.data.sources import ImagesConfig
from fkd.engine.optim import OptimizerConfig
from fkd.errors import ConfigError
from fkd.models.teacher import TeacherConfig
from fkd.training.config import StudentConfig


@dataclass(frozen=True, kw_only=True)
class ClaimsConfig:
    """The paper's comparisons on your images.

    Every row is trained with the same student, optimizer, crops and number of crop-epochs; only
    what a row is about differs. Stop it any time: the same command resumes, and reports what is
    finished.

    Attributes:
        images: to train on, in classes.
        val: to measure accuracy on.
        teacher: labels them all; its accuracy should be well above the student's.
        student: the network that every row trains.
        out: folder of labels, runs and reports.
        epochs: crop-epochs of every run, and the crops stored per image where a row does not vary
            them.
        max_images: train on a random choice of that many images, the same for all rows; they are
            copied into `out`.
        batch_size: crops per step.
        optimizer: of every run from scratch.
        fine_tuning_lr: peak learning rate of the runs that begin with a trained student.
        scale: smallest and largest share of an image's area in a crop.
        crops_per_image: m where a row does not vary it.
        kept: K of the codecs that keep few classes; the paper's is 5 of 1,000 classes.
        kept_more: the larger K; the paper's is 10.
        many_crops: values of m of claim 3, as far as there are so many crop-epochs.
        few_crops: stored crops of the rows that store fewer than the epochs.
        seeds: runs of every row.
        claims: which comparisons to run; see `rows`.
        timing: measure seconds per epoch instead of accuracies; on a machine with nothing else.
        timing_images: images of an epoch that is timed, at least two batches.
        timing_repeats: repeats of every row's epoch, in turns.
        num_workers: threads that load batches.
        device: cpu or cuda; by default a GPU if there is one.
    """

    images: ImagesConfig
    val: ImagesConfig
    teacher: TeacherConfig
    student: StudentConfig
    out: str
    epochs: int = 32
    max_images: int | None = None
    batch_size: int = 128
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(nesterov=True, lr=0.1, decay_all=False)
    )
    fine_tuning_lr: float = 0.01
    scale: tuple[float, float] = (0.08, 1.0)
    crops_per_image: int = 4
    kept: int = 5
    kept_more: int = 10
    many_crops: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    few_crops: tuple[int, ...] = (4, 8)
    seeds: int = 3
    claims: tuple[int, ...] = (1, 2, 3, 4, 5)
    timing: bool = False
    timing_images: int = 2000
    timing_repeats: int = 5
    num_workers: int = 1
    device: Literal["cpu", "cuda"] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.claims) - {1, 2, 3, 4, 5})
        if unknown:
            raise ConfigError(f"claims: {unknown[0]} is none of 1, 2, 3, 4, 5")
        if min(self.few_crops, default=self.epochs) < self.crops_per_image:
            raise ConfigError(
                f"few_crops must be at least crops_per_image, {self.crops_per_image}, got "
                f"{min(self.few_crops)}"
            )
        if self.timing_images < 2 * self.batch_size:
            raise ConfigError(
                f"timing_images must be at least two batches, {2 * self.batch_size}, got "
                f"{self.timing_images}"
            )
        if self.seeds < 1 or self.epochs < 2:
            raise ConfigError(
                f"seeds must be at least 1 and epochs at least 2, got {self.seeds}, {self.epochs}"
            )
