"""The settings of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fkd.checks import (
    changed_fields,
    refuse_unused,
    require_at_least,
    require_colors,
    require_in,
    require_one_of,
    require_positive,
    require_whole,
)
from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.crops.replay import Interpolation
from fkd.crops.sampling import CropConfig
from fkd.data.crop_sources import CropOrder
from fkd.data.decoders import DecoderChoice
from fkd.data.mixing import MixingConfig
from fkd.data.sources import ImagesConfig, refuse_same_folder
from fkd.engine.optim import OptimizerConfig
from fkd.engine.schedule import Pass, ScheduleConfig, plan_passes
from fkd.engine.trackers import parse_trackers
from fkd.errors import ConfigError
from fkd.methods import (
    METHODS,
    ContrastConfig,
    CropSourceKind,
    DeitConfig,
    MealV2Config,
    Method,
    ReLabelConfig,
    SslConfig,
    find_method,
)
from fkd.models.students import HeadKind
from fkd.models.teacher import TeacherConfig
from fkd.models.zoo import is_model_folder
from fkd.userfiles import settle_paths

CROPS_PER_IMAGE: dict[CropSourceKind, int] = {"stored": 4, "fresh": 1}
"""m where none is given, by where crops come from."""

FREE_FIELDS = frozenset(
    {"out", "store", "device", "num_workers", "workers", "resume_from"}
    | {"partial", "allow_missing_images"}
    | {"val_every", "log_every", "checkpoint_seconds", "trackers"}
    | {f"{group}.{name}" for group in ("images", "val") for name in ("root", "download", "subset")}
)
"""Settings that may differ when a run is continued: they do not change its result, or (paths) what
they point to is compared by its content."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The network to train.

    Attributes:
        name: a timm model, or "torchvision/NAME".
        pretrained: start from the published weights of that name.
        checkpoint: start from the weights in this file or run folder.
        new_head: start a new head where the checkpoint has other classes, or none; of a student of
            embeddings, also where the checkpoint is a run that left one.
        head: of a student of embeddings: none (its features must have the width of the embeddings),
            mlp (one hidden layer, then a unit vector), or prototypes (a projection, then cosines
            with learned prototypes; for teachers like SwAV, whose embeddings are such cosines).
        head_hidden: width of the hidden layer of mlp and prototypes; by default that of the
            features.
        head_dim: width of what is compared with prototypes; by default 128.
        input_size: side of its crops, pixels; by default that of the published weights.
        interpolation: how its crops are resized; the paper's students use bilinear.
        normalization: mean and deviation of its colors: those of its own weights, or ImageNet's
            whatever its weights were made with, as MEAL V2 has it.
        mean: of red, green, blue, where white is 1, in the place of that of `normalization`.
        std: standard deviation of the same.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth; the paper's transformers use 0.1.
    """

    name: str
    pretrained: bool = False
    checkpoint: str | None = None
    new_head: bool = False
    head: HeadKind = "mlp"
    head_hidden: int | None = None
    head_dim: int | None = None
    input_size: int | None = None
    interpolation: Interpolation = "bilinear"
    normalization: Literal["own", "imagenet"] = "own"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drop_rate", "drop_path_rate"):
            require_in("[0, 1)", f"student.{name}", getattr(self, name))
        for name in ("input_size", "head_hidden", "head_dim"):
            require_whole(1, f"student.{name}", getattr(self, name))
        require_one_of(HeadKind, "student.head", self.head)
        unused = {"none": {"head_hidden", "head_dim"}, "mlp": {"head_dim"}, "prototypes": set()}
        refuse_unused(self, unused[self.head], prefix="student.", user=f"head {self.head}")
        require_colors("student.", self.mean, self.std)
        settle_paths(self, "checkpoint")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a student. Started again, a killed run resumes and a finished one is left alone.

    Attributes:
        out: folder of the run.
        images: the images to train on; for stored crops, those that were labeled.
        student: the network to train.
        method: what the student is trained against; see the list above.
        store: the label store; needed by methods with stored crops, and by relabel, whose store
            holds label maps.
        partial: also use a store of which only some shards are there.
        allow_missing_images: train on the images that are there where others of the store are not;
            without it they are an error, unless images.subset names those to train on.
        val: images in class folders to measure accuracy on after every pass; of a student of
            embeddings, that of its nearest neighbors among them; of images with several classes
            each mean average precision.
        val_every: passes between two such measurements; the last pass ends with one anyway.
        crops_per_image: m, crops of one image in a mini-batch; by default 4 of stored crops (all
            where a store has fewer), as in the paper, and 1 of fresh ones, as in the papers of the
            methods that draw them; 2 where crops are compared in pairs.
        epochs: how often every image is seen, counted in crops: a pass with m crops is m epochs.
        batch_size: crops per optimizer step, over all processes and accumulated parts; by default a
            sixteenth of the number of images, rounded down to a power of two from 32 to the paper's
            1024.
        optimizer: what updates the weights.
        schedule: learning rate, warm-up, single-crop ending.
        mixing: MixUp and CutMix; an online teacher sees the mixed crops.
        crop_source: stored (the crops of the store) or fresh ones; by default that of the method.
        order: how stored crops are drawn: every crop once per cycle (epoch_permutation), or
            independently at every access as the authors' code does (iid).
        crops: how fresh crops are drawn.
        teacher_augment: further augmentations of fresh crops; an online teacher sees them too.
        student_augment: drawn on top of each crop for the student only; no teacher sees it.
        temperature: of the student's softmax; with an online teacher also of its softmax, and the
            soft loss is multiplied by the square.
        label_temperature: of stored labels; needs a store that keeps logits (codec logits:K or
            logits). A student with a `temperature` of the same value has Hinton's loss without the
            factor of its square.
        teacher_weights: of the teachers of a store that keeps their labels apart, in its order; by
            default those it was made with.
        soft_weight: lambda of the paper's Eq. 1, weight of the soft label against the true class.
        label_smoothing: of the true class, where it has weight.
        deit: DeiT distillation.
        mealv2: MEAL V2.
        relabel: ReLabel.
        contrast: contrastive learning.
        ssl: how a student's embeddings are compared with those of a store.
        teacher: the online teacher.
        teachers: several online teachers, averaged with their weights.
        multi_label: learn each class by itself, with sigmoids and binary cross-entropy: for images
            with several classes, with methods fkd, kd and vanilla. By default where the labels of
            the store or the classes of the images are like that.
        classes: of a student with a teacher and no store: all of the teacher's head, or dataset's.
        max_images: train on a random choice of that many images.
        ema_decay: keep a moving average of the weights, e.g. 0.9999, to be evaluated and saved.
        clip_grad: largest norm of the gradient.
        accumulate_steps: forward passes per optimizer step; each sees a part of batch_size.
        amp: compute in bf16 or fp16 instead of float32.
        compile: let torch.compile make student and online teacher faster, after minutes of
            compiling for each size of a batch. Files of the run are those of any other.
        device: cpu, cuda, cuda:1, mps, xpu; by default a GPU if there is one.
        seed: of weights, order, crops, mixing and dropout.
        decoder: what decodes JPEGs: auto is simplejpeg where it is installed and gives exactly the
            pixels of pillow, with which labels are made.
        num_workers: threads or processes that load batches; by default 2, beside a GPU up to 8, but
            no more than there are usable cores.
        workers: threads (fastest for a few: batches are not copied between processes), processes
            (for many: threads share Python's lock), or auto: threads up to 4. On a CPU, threads
            load one batch each and pause during a training step; processes always work ahead, which
            is better where storage is slow.
        log_every: optimizer steps between two lines of metrics.jsonl; a pass ends with one anyway.
        checkpoint_seconds: time between two checkpoints; every pass ends with one anyway.
        trackers: where metrics go besides metrics.jsonl, e.g. tensorboard,wandb,mlflow: names of
            accelerate's trackers, or none.
        resume_from: a checkpoint of this run (out/checkpoints/step-NUMBER.pt) to resume from where
            newer ones cannot be read; without it they end the run.

    Example:
        >>> from fkd import ImagesConfig, TrainConfig
        >>> from fkd.training.config import StudentConfig
        >>> config = TrainConfig(
        ...     method="fkd",
        ...     images=ImagesConfig(root="photos"),
        ...     store="labels",
        ...     student=StudentConfig(name="resnet18"),
        ...     crops_per_image=2,
        ...     out="run",
        ... )
        >>> config.epochs
        300
    """

    out: str
    images: ImagesConfig
    student: StudentConfig
    method: str = "fkd"
    store: str | None = None
    partial: bool = False
    allow_missing_images: bool = False
    val: ImagesConfig | None = None
    val_every: int = 1
    crops_per_image: int | None = None
    epochs: int = 300
    batch_size: int | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    crop_source: CropSourceKind | None = None
    order: CropOrder = "epoch_permutation"
    crops: CropConfig = field(default_factory=CropConfig)
    teacher_augment: AugmentConfig = NO_AUGMENT
    student_augment: AugmentConfig = NO_AUGMENT
    temperature: float = 1.0
    label_temperature: float = 1.0
    teacher_weights: list[float] = field(default_factory=list)
    soft_weight: float = 1.0
    label_smoothing: float = 0.0
    deit: DeitConfig = field(default_factory=DeitConfig)
    mealv2: MealV2Config = field(default_factory=MealV2Config)
    relabel: ReLabelConfig = field(default_factory=ReLabelConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    ssl: SslConfig = field(default_factory=SslConfig)
    teacher: TeacherConfig | None = None
    teachers: list[TeacherConfig] = field(default_factory=list)
    multi_label: bool | None = None
    classes: Literal["teacher", "dataset"] = "teacher"
    max_images: int | None = None
    ema_decay: float | None = None
    clip_grad: float | None = None
    accumulate_steps: int = 1
    amp: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    device: str | None = None
    seed: int = 0
    decoder: DecoderChoice = "auto"
    num_workers: int | None = None
    workers: Literal["auto", "threads", "processes"] = "auto"
    log_every: int = 20
    checkpoint_seconds: float = 60.0
    trackers: str = "tensorboard"
    resume_from: str | None = None

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the run, e.g. --out runs/mine")
        settle_paths(self, "out", "store", "resume_from")
        refuse_same_folder(self.out, self.images, self.val)
        method = find_method(self.method)
        self._check_crop_source(method)
        self._check_teachers(method)
        self._check_unused(method)
        self._check_mixing(method)
        self._check_numbers()
        passes = all_passes(self)  # checks epochs, crops_per_image and schedule
        self._check_pairs(method, passes)

    def _check_crop_source(self, method: type[Method]) -> None:
        if crop_source_kind(self) == "stored" and self.store is None:
            raise ConfigError(
                f"method {self.method} with stored crops needs a label store: --store FOLDER "
                "(`fkd label` makes one)"
            )
        if method.reads_maps and (self.store is None or self.crop_source == "stored"):
            raise ConfigError(
                f"method {self.method} needs label maps, which give labels to fresh crops: --store "
                "FOLDER (`fkd label-maps` makes one), and crop_source fresh"
            )
        if method.crop_source == "stored" and self.crop_source == "fresh":
            raise ConfigError(
                f"method {self.method} replays stored crops; use crop_source stored, or a method "
                "with an online teacher"
            )

    def _check_teachers(self, method: type[Method]) -> None:
        if method.needs_teacher and not all_teachers(self):
            raise ConfigError(f"teacher.name: method {self.method} needs one: --teacher.name NAME")
        if all_teachers(self) and not method.needs_teacher:
            raise ConfigError(f"teacher.name: method {self.method} has no online teacher")
        if self.teacher is not None and self.teachers:
            raise ConfigError("teacher.name: name one teacher, or several in `teachers`, not both")

    def _check_unused(self, method: type[Method]) -> None:
        """Refuse settings that have no effect."""
        used_by = {name: kind.uses | {kind.options} for name, kind in METHODS.items()}
        of_methods = set().union(*used_by.values()) - used_by[self.method]
        for setting in sorted(changed_fields(self) & of_methods):
            users = ", ".join(name for name, used in used_by.items() if setting in used)
            raise ConfigError(
                f"{setting}: method {self.method} does not use it; leave it out, or use one of "
                f"{users}"
            )
        if not method.learns_embeddings:
            of_heads = {"head", "head_hidden", "head_dim"}
            user = f"method {self.method}, whose student gives classes,"
            refuse_unused(self.student, of_heads, prefix="student.", user=user)
        else:
            user = f"method {self.method}, whose student gives embeddings,"
            refuse_unused(self, {"classes"}, prefix="", user=user)
        crops = crop_source_kind(self)
        unused = {"crops", "teacher_augment"} if crops == "stored" else {"order"}
        refuse_unused(self, unused, prefix="", user=f"a run with {crops} crops")
        if self.store is None:
            of_stores = {"partial", "allow_missing_images"}
            refuse_unused(self, of_stores, prefix="", user="a run without a store")
        if "seed" in changed_fields(self.crops):
            raise ConfigError("crops.seed: a run has one seed; give seed instead")

    def _check_mixing(self, method: type[Method]) -> None:
        if method.needs_mixing and not self.mixing.enabled:
            raise ConfigError(f"method {self.method} needs mixed crops: --mixing.mixup_alpha 1")
        if method.needs_mixing and self.student_augment != NO_AUGMENT:
            raise ConfigError(
                f"student_augment: method {self.method} gives teacher and student the same crops; "
                "use teacher_augment, which both see"
            )
        if self.mixing.within_image and crops_per_image(self) == 1:
            raise ConfigError(
                "mixing.within_image mixes crops of the same image: use crops_per_image above 1"
            )

    def _check_pairs(self, method: type[Method], passes: Sequence[Pass]) -> None:
        if not method.needs_pairs:
            return
        if method.needs_teacher:
            refuse_unused(
                self.contrast, {"dim"}, prefix="contrast.", user="a student with a teacher"
            )
        if self.mixing.enabled:
            raise ConfigError(f"mixing: method {self.method} compares whole crops; leave it out")
        odd = [of_pass for of_pass in passes if of_pass.crops_per_image != 2]
        if odd:
            raise ConfigError(
                f"method {self.method} needs two crops of an image in every pass, but the one at "
                f"epoch {odd[0].epoch} has {odd[0].crops_per_image}; use an even number of epochs, "
                "no warm-up, and leave out --crops_per_image and --schedule.single_crop_ending"
            )

    def _check_numbers(self) -> None:
        for name in ("batch_size", "accumulate_steps", "val_every", "max_images", "log_every"):
            require_whole(1, name, getattr(self, name))
        require_whole(0, "num_workers", self.num_workers)
        require_whole(None, "seed", self.seed)
        require_at_least(0, "checkpoint_seconds", self.checkpoint_seconds)
        parse_trackers(self.trackers)
        require_in("(0, 1)", "ema_decay", self.ema_decay)
        require_positive("clip_grad", self.clip_grad)
        require_in("[0, 1)", "label_smoothing", self.label_smoothing)


# Functions, not properties: the parser of the command line takes public properties for subcommands.


def crop_source_kind(config: TrainConfig) -> CropSourceKind:
    """Where crops come from."""
    return config.crop_source or find_method(config.method).crop_source


def crops_per_image(config: TrainConfig) -> int:
    """m; where it is not given, that of a store with enough crops."""
    needs_pairs = find_method(config.method).needs_pairs
    default = 2 if needs_pairs else CROPS_PER_IMAGE[crop_source_kind(config)]
    return default if config.crops_per_image is None else config.crops_per_image


def pass_schedule(config: TrainConfig) -> ScheduleConfig:
    """The schedule; without a single-crop ending, unless asked for, where crops are in pairs."""
    if config.schedule.single_crop_ending is not None:
        return config.schedule
    needs_pairs = find_method(config.method).needs_pairs
    return replace(config.schedule, single_crop_ending=not needs_pairs)


def all_passes(config: TrainConfig) -> list[Pass]:
    """The passes of a run over its images, in order.

    Raises:
        ConfigError: see `plan_passes`.
    """
    return plan_passes(config.epochs, crops_per_image(config), pass_schedule(config))


def starts_from_weights(config: TrainConfig) -> bool:
    """Whether the student has learned something before the run."""
    student = config.student
    return student.pretrained or student.checkpoint is not None or is_model_folder(student.name)


def all_teachers(config: TrainConfig) -> list[TeacherConfig]:
    """The online teachers, one or several."""
    return config.teachers if config.teacher is None else [config.teacher]
