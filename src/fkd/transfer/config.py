"""The settings of a transfer run."""

import os
from dataclasses import dataclass, field, replace
from typing import Literal

from fkd.checks import (
    refuse_unused,
    require_at_least,
    require_in,
    require_one_of,
    require_positive,
    require_whole,
)
from fkd.data.sources import ImagesConfig, refuse_same_folder
from fkd.engine.optim import OptimizerConfig
from fkd.engine.trackers import parse_trackers
from fkd.errors import ConfigError
from fkd.userfiles import settle_paths

Task = Literal["detection", "segmentation", "classification"]
PresetName = Literal["1x", "tv-ref"]

FREE_FIELDS = frozenset(
    {"out", "device", "num_workers", "workers", "resume_from", "checkpoint", "annotations"}
    | {"val_annotations", "val_every", "log_every", "checkpoint_seconds", "trackers"}
    | {"images.root", "val.root"}
)
"""Settings that may differ when a run is continued: they do not change its result, or (paths) what
they point to is compared by its content."""

_OF_DETECTORS = frozenset(
    {"annotations", "val_annotations", "from_scratch", "preset", "milestones", "warmup_steps"}
    | {"detector", "flip"}
)
_OF_CLASSIFIERS = frozenset({"input_size"})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A schedule of detectors.

    Attributes:
        epochs: how often every image with objects is seen.
        milestones: epochs at which the learning rate is divided by 10.
    """

    epochs: int
    milestones: tuple[int, ...]


PRESETS: dict[str, Preset] = {
    "1x": Preset(epochs=12, milestones=(8, 11)),
    "tv-ref": Preset(epochs=26, milestones=(16, 22)),
}
BATCH_SIZE, LR = 16, 0.02
"""Images per step of both presets, and the learning rate that belongs to them."""
WARMUP_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Sizes of a detector.

    Attributes:
        min_size: the shorter side that images are resized to, pixels.
        max_size: the longest that the longer side may become.
        trainable_layers: stages of the backbone that are trained, from the last, of 5; by default 3
            of trained weights and all of random ones.
        proposals: regions of an image that are kept before and after non-maximum suppression; by
            default torchvision's 2,000, in evaluation 1,000.
        regions_per_image: of these, how many the box head learns from.
        detections_per_image: the most that are reported; AP counts 100.
    """

    min_size: int = 800
    max_size: int = 1333
    trainable_layers: int | None = None
    proposals: int | None = None
    regions_per_image: int = 512
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        for name in ("min_size", "max_size", "proposals"):
            require_whole(1, f"detector.{name}", getattr(self, name))
        for name in ("regions_per_image", "detections_per_image"):
            require_whole(1, f"detector.{name}", getattr(self, name))
        require_whole(0, "detector.trainable_layers", self.trainable_layers)
        if self.trainable_layers is not None and self.trainable_layers > 5:
            raise ConfigError(
                f"detector.trainable_layers is {self.trainable_layers}, but a ResNet has 5 stages"
            )
        if self.max_size < self.min_size:
            raise ConfigError(
                f"detector.max_size is {self.max_size}, less than min_size {self.min_size}"
            )


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Train a detector or another classifier from a student. Started again, a run resumes.

    Attributes:
        out: folder of the run.
        task: detection (Faster R-CNN), segmentation (Mask R-CNN: boxes and masks), or
            classification (all weights are fine-tuned under a new head).
        checkpoint: where the backbone comes from: a run folder of `fkd train`, another model
            folder, or a file of weights.
        backbone: name of the network, e.g. resnet50 or torchvision/resnet50; by default what the
            checkpoint says, else resnet50.
        pretrained: take the published weights of that name instead of a checkpoint.
        from_scratch: take random weights; then batch norm is trained, and so are all stages.
        images: images to train on. Of detection and segmentation, the folder of COCO
            (annotations/instances_train2017.json, train2017, val2017), or with `annotations` the
            folder of the images; of classification, class folders.
        annotations: objects of the training images, a JSON file in the format of COCO.
        val: images to measure on; with `val_annotations` those that it names, by default found
            beside the training images.
        val_annotations: objects of the validation images.
        val_every: passes between two measurements; the last pass ends with one anyway.
        preset: of detectors: 1x is 12 epochs, the learning rate divided by 10 after 8 and 11;
            tv-ref is torchvision's 26 epochs, after 16 and 22.
        epochs: how often every image is seen; by default those of the preset, of classification 30.
        batch_size: images per optimizer step, over all processes and accumulated parts; by default
            16, of classification a sixteenth of the images, from 32 to 1024.
        optimizer: what updates the weights. The default learning rate of detectors is 0.02 for 16
            images, in proportion to batch_size; that of classification is 0.01 with sgd, a tenth
            of that from scratch, whatever the batch.
        milestones: epochs after which a detector's learning rate is divided by 10, instead of the
            preset's.
        warmup_steps: first steps of a detector, in which the learning rate rises from a thousandth;
            by default 1,000, but at most one epoch.
        detector: sizes of images and numbers of regions.
        flip: probability that left and right of a training image are exchanged; of detectors.
        input_size: side of the crops of classification, pixels; by default that of the network.
        clip_grad: largest norm of the gradient.
        accumulate_steps: forward passes per optimizer step; each sees a part of batch_size.
        amp: compute in bf16 or fp16 instead of float32.
        device: cpu, cuda, cuda:1, mps, xpu; by default a GPU if there is one.
        seed: of new layers, order, flips and the choice of regions.
        num_workers: threads or processes that load images; by default 2, beside a GPU up to 8.
        workers: threads, processes, or auto: threads up to 4.
        log_every: optimizer steps between two lines of metrics.jsonl.
        checkpoint_seconds: time between two checkpoints; every pass ends with one anyway.
        trackers: where metrics go besides metrics.jsonl, e.g. tensorboard,wandb,mlflow: names of
            accelerate's trackers, or none.
        resume_from: a checkpoint of this run to resume from where newer ones cannot be read.
    """

    out: str = ""
    task: Task = "segmentation"
    checkpoint: str | None = None
    backbone: str | None = None
    pretrained: bool = False
    from_scratch: bool = False
    images: ImagesConfig | None = None
    annotations: str | None = None
    val: ImagesConfig | None = None
    val_annotations: str | None = None
    val_every: int = 1
    preset: PresetName = "1x"
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    milestones: tuple[int, ...] | None = None
    warmup_steps: int | None = None
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    flip: float = 0.5
    input_size: int | None = None
    clip_grad: float | None = None
    accumulate_steps: int = 1
    amp: Literal["no", "bf16", "fp16"] = "no"
    device: str | None = None
    seed: int = 0
    num_workers: int | None = None
    workers: Literal["auto", "threads", "processes"] = "auto"
    log_every: int = 20
    checkpoint_seconds: float = 300.0
    trackers: str = "tensorboard"
    resume_from: str | None = None

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the run, e.g. --out runs/mine")
        if self.images is None:
            raise ConfigError(
                "images: give the images to train on, e.g. --images.root data/coco (or --smoke to "
                "see it run on generated ones)"
            )
        settle_paths(self, "out", "checkpoint", "annotations", "val_annotations", "resume_from")
        refuse_same_folder(self.out, self.images, self.val)
        require_one_of(Task, "task", self.task)
        require_one_of(PresetName, "preset", self.preset)
        self._check_numbers()
        detects = self.task != "classification"
        unused = _OF_CLASSIFIERS if detects else _OF_DETECTORS
        refuse_unused(self, unused, prefix="", user=f"task {self.task}")
        self._check_weights()
        if detects:
            self._check_files()

    def _check_weights(self) -> None:
        given = {
            "checkpoint": self.checkpoint is not None,
            "pretrained": self.pretrained,
            "from_scratch": self.from_scratch,
        }
        chosen = [name for name, is_given in given.items() if is_given]
        if len(chosen) != 1:
            found = f"{' and '.join(chosen)} are given" if chosen else "nothing is given"
            raise ConfigError(
                f"checkpoint: say once where the weights of the backbone come from ({found}): "
                "--checkpoint RUN (a run of fkd train, or a file), --pretrained (published ones), "
                "or --from_scratch (detectors)"
            )

    def _check_numbers(self) -> None:
        for name in ("epochs", "batch_size", "accumulate_steps", "val_every", "log_every"):
            require_whole(1, name, getattr(self, name))
        require_whole(1, "input_size", self.input_size)
        for name in ("num_workers", "warmup_steps"):
            require_whole(0, name, getattr(self, name))
        require_whole(None, "seed", self.seed)
        require_in("[0, 1]", "flip", self.flip)
        require_at_least(0, "checkpoint_seconds", self.checkpoint_seconds)
        parse_trackers(self.trackers)
        require_positive("clip_grad", self.clip_grad)
        for milestone in self.milestones or ():
            require_whole(1, "milestones", milestone)

    def _check_files(self) -> None:
        for name in ("images", "val"):
            config = getattr(self, name)
            if config is not None:
                others = {"format", "split", "image_column", "label_column", "download", "subset"}
                user = f"task {self.task}, whose images are files,"
                refuse_unused(config, others, prefix=f"{name}.", user=user)
        if self.val is not None and self.val_annotations is None:
            raise ConfigError(
                f"val: task {self.task} needs to know what is in these images: "
                "--val_annotations FILE.json"
            )
        if self.annotations is None and self.val_annotations is not None:
            raise ConfigError(
                "val_annotations: give --annotations FILE.json of the training images"
            )


@dataclass(frozen=True)
class CocoPaths:
    """Where annotations and images lie.

    Attributes:
        annotations: file of the training images.
        images: their folder.
        val_annotations: file of the validation images; None without any.
        val_images: their folder.
    """

    annotations: str
    images: str
    val_annotations: str | None
    val_images: str | None


def find_coco_paths(config: TransferConfig) -> CocoPaths:
    """The files of a detector's settings: as they are given, or found in the folder of COCO.

    Raises:
        ConfigError: a folder has no annotations where COCO has them, or several.
    """
    assert config.images is not None
    root = config.images.root
    if config.annotations is not None:
        val_images = None
        if config.val_annotations is not None:
            val_images = root if config.val is None else config.val.root
        return CocoPaths(config.annotations, root, config.val_annotations, val_images)
    train = _find_part(root, "train")
    if train is None:
        raise ConfigError(
            f"images.root: {root} has no annotations/instances_train2017.json; give the folder of "
            "COCO, or --annotations FILE.json and the folder of its images"
        )
    val = _find_part(root, "val") or (None, None)
    return CocoPaths(*train, *val)


def _find_part(root: str, part: str) -> tuple[str, str] | None:
    """The annotation file and the image folder of "train" or "val" below a folder like COCO's."""
    folder, beginning = os.path.join(root, "annotations"), f"instances_{part}"
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return None
    files = [n for n in names if n.startswith(beginning) and n.endswith(".json")]
    if len(files) > 1:
        raise ConfigError(
            f"images.root: {folder} has {' and '.join(files[:3])}; choose by --annotations, "
            "--images, --val_annotations and --val"
        )
    if not files:
        return None
    name = files[0].removeprefix("instances_").removesuffix(".json")
    places = [os.path.join(root, name), os.path.join(root, "images", name)]
    return os.path.join(folder, files[0]), next(filter(os.path.isdir, places), places[0])


def fill_in(config: TransferConfig, num_images: int) -> TransferConfig:
    """The settings of a detector without defaults.

    Args:
        config: as the user gave them.
        num_images: images with objects to train on.

    Raises:
        ConfigError: a milestone lies outside of the run.
    """
    preset = PRESETS[config.preset]
    epochs = preset.epochs if config.epochs is None else config.epochs
    milestones = config.milestones
    if milestones is None:  # of a shorter run, at the same shares of it
        milestones = tuple(round(m * epochs / preset.epochs) for m in preset.milestones)
    elif any(milestone >= epochs for milestone in milestones):
        raise ConfigError(
            f"milestones: {list(milestones)} do not all lie before the end of {epochs} epochs"
        )
    batch_size = BATCH_SIZE if config.batch_size is None else config.batch_size
    optimizer = config.optimizer
    if optimizer.lr is None:
        if optimizer.name != "sgd":
            raise ConfigError(
                f"optimizer.lr: the preset is for sgd; give the learning rate of {optimizer.name}"
            )
        optimizer = replace(optimizer, lr=LR * batch_size / BATCH_SIZE)
    warmup_steps = config.warmup_steps
    if warmup_steps is None:
        warmup_steps = min(WARMUP_STEPS, -(-num_images // batch_size))
    return replace(
        config,
        epochs=epochs,
        milestones=milestones,
        batch_size=batch_size,
        optimizer=optimizer,
        warmup_steps=warmup_steps,
    )
