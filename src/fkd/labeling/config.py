"""The settings of labeling runs: random crops with a label each, or label maps of whole images."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from fkd.checks import require_in, require_whole
from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.crops.sampling import CropConfig
from fkd.data.sources import ImagesConfig, refuse_same_folder
from fkd.errors import ConfigError
from fkd.labels.codec_names import PerTeacher
from fkd.labels.codecs import Codec, Logits, MarginalSmoothing, TopKLogits
from fkd.labels.projection import Projection
from fkd.labels.quantization import ValueDtype
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherConfig
from fkd.store.config import Form, require_value_dtype
from fkd.userfiles import settle_paths

ClassChoice = Literal["teacher", "dataset"]
MapDtype = Literal["f16", "f32"]
Numerics = Literal["exact", "fast"]

_BATCH_SIZE = {"cpu": 16, "cuda": 256}
_KEPT = 5  # classes of a label by default, as in the paper
_MAX_SHARDS = 1024  # a store has at most that many files by default ...
_MIN_CROPS = 1024  # ... with at least that many teacher passes each ...
_MIN_IMAGES = 16  # ... and that many images, because a shard itself takes 1.8 kB


@dataclass(frozen=True, kw_only=True)
class LabelRunConfig:
    """What all labeling runs are told, whatever they label.

    Attributes:
        images: the images to label.
        out: folder of the store; an unfinished store is continued.
        max_images: label only that many images, spread evenly over the classes, to try things; such
            a store is one of its own, which training joins with the same images.
        classes: teacher keeps all classes of its head; dataset keeps those of the images' folders,
            matched by name, in their order.
        images_per_shard: images per shard, which is computed and written as a whole; by default at
            most 1,024 shards of at least 16 images and 1,024 forward passes.
        batch_size: inputs of a forward pass; by default 16 on a CPU (larger ones are no faster),
            256 on a GPU. It changes the last bits of a label and is part of the store's identity.
        device: where the teacher runs: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is
            one.
        num_workers: threads that decode and crop ahead of the teacher.
        min_accuracy: refuse a teacher whose top-1 on a sample of the images is lower, 0 to 1.
        accuracy_images: images in that sample; 0 skips the accuracy check.
        max_unreadable: images that may be unreadable in a finished store.
        spot_checks: labels that are computed again at the end and compared with the stored ones; 0
            skips this.
        repair: label the shards again whose images were changed since; their old labels go to
            quarantine/, and all others are kept. Without it, such a run is refused.
        shards: label only these, FIRST:END as in Python or PART/PARTS from 1, into a folder that
            `fkd merge` joins with the others; for machines without a common folder.
    """

    images: ImagesConfig
    out: str
    max_images: int | None = None
    classes: ClassChoice = "teacher"
    images_per_shard: int | None = None
    batch_size: int | None = None
    device: str | None = None
    num_workers: int = 2
    min_accuracy: float | None = None
    accuracy_images: int = 256
    max_unreadable: int = 0
    spot_checks: int = 64
    repair: bool = False
    shards: str | None = None

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the store, e.g. --out labels/mine")
        if self.shards is not None:
            parse_shards(self.shards)
        settle_paths(self, "out")
        refuse_same_folder(self.out, self.images)
        for name in ("max_images", "images_per_shard", "batch_size", "num_workers"):
            require_whole(1, name, getattr(self, name))
        for name in ("accuracy_images", "max_unreadable", "spot_checks"):
            require_whole(0, name, getattr(self, name))
        require_in("[0, 1]", "min_accuracy", self.min_accuracy)
        require_one_of(ClassChoice, "classes", self.classes)


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Features in fewer dimensions, by a fixed random projection that keeps inner products on
    average.

    Attributes:
        dims: dimensions that are stored, e.g. 128 or 256; by default all, without a projection.
        seed: of the projection.
    """

    dims: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole(1, "projection.dims", self.dims)
        require_whole(None, "projection.seed", self.seed)
        if self.dims is None and self.seed != 0:
            raise ConfigError("projection.seed: means nothing without --projection.dims")


NO_PROJECTION = ProjectionConfig()


@dataclass(frozen=True, kw_only=True)
class LabelConfig(LabelRunConfig):
    """Label images: run a teacher over random crops of every image and store its soft labels.

    Attributes:
        teacher: the model that gives the labels.
        teachers: several models, averaged by their weights over full probabilities.
        num_crops: crops stored per image (M).
        crops: how they are drawn.
        teacher_augment: further augmentations of the crops that the teacher sees; their parameters
            are stored with the label, and students replay them.
        codec: how a label is compressed: full, hard, smoothing, ms:K, mr:K, sampled:K (K classes
            drawn so that labels are right on average), logits, or logits:K, whose temperature is
            chosen when a student is trained; of a multi-label teacher sigmoid:K, or sigmoid for all
            classes. By default ms:5, or ms:C where there are only C classes.
        separate: keep the label of every teacher instead of their mean; weights are chosen when a
            student is trained.
        value_dtype: how a value is stored; by default u16 for probabilities and f16 for logits. i8
            is for codec logits: half the bytes of f16, with a scale per crop.
        projection: of the features of a teacher without classes, before they are stored.
        form: plain keeps every number in columns; compact packs the labels of an image into few
            bits and draws boxes again instead of storing them (`fkd convert` goes both ways).
        numerics: exact computes in full float32; fast in half precision, which changes labels. By
            how much, and how fast it is here, is measured and printed before labeling starts.
        autocast: the half precision of fast numerics: bf16 (default), or fp16, which is closer but
            overflows with some models.
        compile: let torch.compile make the teacher faster, after minutes of compiling. It changes
            the last bits of labels and is part of the store's identity.

    Example:
        >>> from fkd import ImagesConfig, TeacherConfig
        >>> images, teacher = ImagesConfig(root="photos"), TeacherConfig("resnet50")
        >>> LabelConfig(images=images, teacher=teacher, num_crops=100, out="new_labels").num_crops
        100
    """

    teacher: TeacherConfig | None = None
    teachers: list[TeacherConfig] = field(default_factory=list)
    num_crops: int = 200
    crops: CropConfig = field(default_factory=CropConfig)
    teacher_augment: AugmentConfig = NO_AUGMENT
    codec: Codec | None = None
    separate: bool = False
    value_dtype: ValueDtype | None = None
    projection: ProjectionConfig = NO_PROJECTION
    form: Form = "plain"
    numerics: Numerics = "exact"
    autocast: Autocast | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.teachers) == (self.teacher is not None):
            raise ConfigError(
                "teacher.name: name one teacher, e.g. --teacher.name tf_efficientnet_lite0, or "
                "several in `teachers`, but not both"
            )
        require_whole(1, "num_crops", self.num_crops)
        for name, choices in (("form", Form), ("numerics", Numerics)):
            require_one_of(choices, name, getattr(self, name))
        for name, choices in (("value_dtype", ValueDtype), ("autocast", Autocast)):
            if getattr(self, name) is not None:
                require_one_of(choices, name, getattr(self, name))
        if self.autocast is not None and self.numerics == "exact":
            raise ConfigError(
                f"autocast: {self.autocast} is not exact; add --numerics fast, or leave it out"
            )
        self._check_codec()
        self._check_outputs()

    def _check_outputs(self) -> None:
        if self.classes == "dataset":
            for teacher in all_teachers(self):
                if teacher.output != "logits":
                    raise ConfigError(
                        f"classes: {teacher.output} of a teacher are no classes; leave out dataset"
                    )

    def _check_codec(self) -> None:
        if self.codec is None:
            self._check_separate()
            return
        if not hasattr(self.codec, "encodes"):  # a spelling, as the command line takes it
            raise ConfigError(f"codec: give a codec, e.g. fkd.parse_codec({self.codec!r})")
        if isinstance(self.codec, TopKLogits):
            raise ConfigError(
                f"codec: {self.codec.name} is for label maps (`fkd label-maps`); use ms:K for crops"
            )
        if isinstance(self.codec, PerTeacher):
            raise ConfigError(f"codec: write --codec {self.codec.codec.name} --separate")
        self._check_separate()
        if self.value_dtype is not None:
            require_value_dtype(self.codec, self.value_dtype)

    def _check_separate(self) -> None:
        of_logits = self.codec is not None and self.codec.encodes == "logits"
        if self.separate and (len(self.teachers) < 2 or of_logits):
            raise ConfigError(
                "separate: keeps the probabilities of several teachers apart; name them in "
                "`teachers`, and use a codec of probabilities or logits:K"
            )


@dataclass(frozen=True, kw_only=True)
class LabelMapsConfig(LabelRunConfig):
    """Label maps: run a teacher once over every whole image and store what each cell shows.

    Attributes:
        teacher: the model that gives the maps: a network that takes the mean of a feature map and
            then classifies it by one linear layer.
        top_k: classes kept of each cell; by default 5, or all where there are fewer.
        value_dtype: how a logit is stored.
    """

    teacher: TeacherConfig
    top_k: int | None = None
    value_dtype: MapDtype = "f16"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(1, "top_k", self.top_k)
        if self.teacher.output != "logits":
            raise ConfigError(
                f"teacher.output: label maps hold classes, not {self.teacher.output}; leave it out"
            )
        require_one_of(MapDtype, "value_dtype", self.value_dtype)


def require_one_of(choices: object, name: str, value: str) -> None:
    """Refuse a value that is not one of a `Literal`.

    Raises:
        ConfigError: names the option, the value and the choices.
    """
    known = get_args(choices)
    if value not in known:
        raise ConfigError(f"{name}: {value!a} is none of {', '.join(known)}")


# Functions, not properties: the parser of the command line takes public properties for subcommands.


def stored_codec(config: LabelConfig, num_outputs: int, *, is_classifier: bool = True) -> Codec:
    """How labels are compressed: the codec, of each teacher if they are kept apart.

    With few classes the default keeps all of them, and labels are exact. Features are kept as they
    are.

    Raises:
        ConfigError: another codec is asked for features.
    """
    codec = config.codec or (
        MarginalSmoothing(min(_KEPT, num_outputs)) if is_classifier else Logits()
    )
    if not is_classifier and not isinstance(codec, Logits):
        raise ConfigError(
            f"codec: features are no classes and have the codec logits, not {codec.name}"
        )
    return PerTeacher(codec, len(config.teachers)) if config.separate else codec


def stored_projection(
    config: LabelConfig, num_outputs: int, *, is_classifier: bool
) -> Projection | None:
    """The projection of the teacher's features; None where they are stored as they are.

    Raises:
        ConfigError: the outputs are classes, or fewer than the projection has.
    """
    dims, seed = config.projection.dims, config.projection.seed
    if dims is None:
        return None
    if is_classifier:
        raise ConfigError(
            "projection.dims: classes are not projected; it is for the features of a teacher "
            "(--teacher.output features)"
        )
    if dims > num_outputs:
        raise ConfigError(
            f"projection.dims: {dims} is above the {num_outputs} features of the teacher; give "
            "fewer, or leave it out"
        )
    return Projection(num_outputs, dims, seed)


def stored_top_k(config: LabelMapsConfig, num_classes: int) -> int:
    """Classes kept of each cell of a label map."""
    return config.top_k or min(_KEPT, num_classes)


def all_teachers(config: LabelConfig | LabelMapsConfig) -> list[TeacherConfig]:
    """The teachers, one or several."""
    if isinstance(config, LabelMapsConfig):
        return [config.teacher]
    return config.teachers if config.teacher is None else [config.teacher]


def resolve_batch_size(batch_size: int | None, device: torch.device) -> int:
    """Inputs of a forward pass."""
    return batch_size or _BATCH_SIZE.get(device.type, _BATCH_SIZE["cuda"])


def compiles(config: LabelConfig | LabelMapsConfig) -> bool:
    """Whether the teachers are compiled."""
    return isinstance(config, LabelConfig) and config.compile


def resolve_autocast(config: LabelConfig) -> Autocast | None:
    """The half precision of the forward passes, None for exact ones."""
    return None if config.numerics == "exact" else config.autocast or "bf16"


def resolve_images_per_shard(
    images_per_shard: int | None, num_images: int, passes_per_image: int
) -> int:
    """Images per shard; by default enough to be worth a file, few enough to be computed again.

    Args:
        images_per_shard: the setting.
        num_images: images to label.
        passes_per_image: crops (or whole images) of one image that go through the teacher.
    """
    return images_per_shard or max(
        ceil_div(num_images, _MAX_SHARDS), ceil_div(_MIN_CROPS, passes_per_image), _MIN_IMAGES
    )


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def parse_shards(text: str) -> Callable[[int], range]:
    """Which of so many shards a setting means.

    Example:
        >>> [list(parse_shards(text)(10)) for text in ("2:5", "8:", ":2", "1/3", "3/3")]
        [[2, 3, 4], [8, 9], [0, 1], [0, 1, 2], [6, 7, 8, 9]]

    Raises:
        ConfigError: it is neither FIRST:END nor PART/PARTS.
    """
    bounds = re.fullmatch(r"(\d*):(\d*)", text)
    part = re.fullmatch(r"(\d+)/(\d+)", text)
    if bounds:
        first, end = (int(bound) if bound else None for bound in bounds.groups())
        return lambda count: range(*slice(first, end).indices(count))
    if part and 1 <= int(part[1]) <= int(part[2]):
        number, parts = int(part[1]), int(part[2])
        return lambda count: range(count * (number - 1) // parts, count * number // parts)
    raise ConfigError(
        f"shards: {text!r} is neither FIRST:END (0:10 is the first ten) nor PART/PARTS (1/4 is the "
        "first quarter)"
    )
