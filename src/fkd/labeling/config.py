"""The settings of a labeling run, and the part of them that makes a label store what it is."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import torch

from fkd.crops.augment import NO_AUGMENT, AugmentConfig
from fkd.crops.partners import StoredMixingConfig, mix_columns, mixes
from fkd.crops.sampling import GENERATOR, CropConfig
from fkd.data.canary import cpu_name
from fkd.data.decode import DECODER
from fkd.data.sources import ImagesConfig, ImageSource
from fkd.errors import ConfigError
from fkd.labels.codec_names import PerTeacher, check_codec, parse_codec
from fkd.labels.codecs import Codec, TopKLogits
from fkd.models.numerics import Autocast
from fkd.models.teacher import TeacherConfig, TeacherEnsemble
from fkd.store import form_members, keys_digest
from fkd.store.config import Form

ValueDtype = Literal["u16", "f16", "f32"]
ClassChoice = Literal["teacher", "dataset"]
Numerics = Literal["exact", "fast"]

_BATCH_SIZE = {"cpu": 16, "cuda": 256}
_MOST_SHARDS = 1024  # a default store has no more files than that ...
_LEAST_CROPS = 1024  # ... and no shard with less work than that ...
_LEAST_IMAGES = 16  # ... or fewer images, because a shard itself takes 1.8 kB


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Label images: run a teacher over random crops of every image and store what it says.

    Attributes:
        images: the images to label.
        out: folder of the label store; a store that was begun is continued.
        teacher: the model that gives the labels.
        teachers: several models, averaged by their weights over full probabilities.
        num_crops: crops stored per image (M).
        scale: smallest and largest share of an image's area in a crop.
        ratio: smallest and largest width / height of a crop.
        flip_prob: probability of mirroring a crop.
        seed: picks the whole set of crops.
        replayed: augmentations that the teacher sees; their parameters are stored with the label.
        student_only: augmentations that the student shall add by itself; only noted in the store.
        stored_mixing: MixUp and CutMix of crops of different images before the teacher sees them;
            students replay the mixtures. (Mixing in `fkd train` mixes labels instead.)
        codec: how a label is compressed (full, hard, smoothing, ms:K, mr:K, logits, or logits:K,
            whose temperature is chosen when a student is trained).
        separate: keep the label of every teacher instead of their mean; weights are chosen when a
            student is trained.
        value_dtype: how a value is stored; by default u16 for probabilities and f16 for logits.
        form: plain keeps every number in columns; compact packs the labels of an image into few
            bits and draws boxes again instead of storing them (`fkd convert` goes both ways).
        classes: teacher keeps all classes of its head; dataset keeps those of the images' folders,
            matched by name, in their order.
        images_per_shard: images in a unit of work; by default at most 1,024 shards of at least
            16 images and 1,024 crops.
        batch_size: crops in a forward pass; by default 16 on a CPU (larger ones are no faster),
            256 on a GPU. It changes the last bits of a label and is part of the store's identity.
        numerics: exact computes in full float32; fast in half precision, which moves labels. How
            far, and how fast it is here, is measured and said before labeling starts.
        autocast: the half precision of fast numerics: bf16 (default), or fp16, which is closer but
            overflows with some models.
        device: where the teacher runs; by default a GPU if there is one.
        num_workers: threads that decode and crop ahead of the teacher.
        min_accuracy: refuse a teacher whose top-1 on a sample of the images is lower, 0 to 1.
        gate_images: images in that sample; 0 skips it.
        max_unreadable: images that may be unreadable in a finished store.
        probes: crops that are labeled anew and compared at the end; 0 skips it.
    """

    images: ImagesConfig
    out: str
    teacher: TeacherConfig | None = None
    teachers: list[TeacherConfig] = field(default_factory=list)
    num_crops: int = 200
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    seed: int = 0
    replayed: AugmentConfig = NO_AUGMENT
    student_only: AugmentConfig = NO_AUGMENT
    stored_mixing: StoredMixingConfig = field(default_factory=StoredMixingConfig)
    codec: str = "ms:5"
    separate: bool = False
    value_dtype: ValueDtype | None = None
    form: Form = "plain"
    classes: ClassChoice = "teacher"
    images_per_shard: int | None = None
    batch_size: int | None = None
    numerics: Numerics = "exact"
    autocast: Autocast | None = None
    device: str | None = None
    num_workers: int = 2
    min_accuracy: float | None = None
    gate_images: int = 256
    max_unreadable: int = 0
    probes: int = 64

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out: give the folder of the label store, e.g. --out labels/mine")
        if bool(self.teachers) == (self.teacher is not None):
            raise ConfigError(
                "teacher.name: name one teacher, e.g. --teacher.name tf_efficientnet_lite0, or "
                "several in `teachers`, but not both"
            )
        self._check_numbers()
        self._check_choices()
        crop_config(self)  # checks its own fields

    def _check_numbers(self) -> None:
        at_least = {"images_per_shard": 1, "batch_size": 1, "num_workers": 1}
        at_least |= {"gate_images": 0, "max_unreadable": 0, "probes": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        if self.min_accuracy is not None and not 0.0 <= self.min_accuracy <= 1.0:
            raise ConfigError(f"min_accuracy must lie in [0, 1], got {self.min_accuracy}")

    def _check_choices(self) -> None:
        for name, choices in (
            ("value_dtype", ValueDtype),
            ("form", Form),
            ("numerics", Numerics),
            ("autocast", Autocast),
            ("classes", ClassChoice),
        ):
            value, known = getattr(self, name), get_args(choices)
            if value not in known and (
                value is not None or name in ("classes", "numerics", "form")
            ):
                raise ConfigError(f"{name}: {value!r} is none of {', '.join(known)}")
        if self.autocast is not None and self.numerics == "exact":
            raise ConfigError(
                f"autocast: {self.autocast} is not exact; add --numerics fast, or leave it out"
            )
        if isinstance(parse_codec(self.codec), TopKLogits):
            raise ConfigError(
                f"codec: {self.codec} is for label maps (`fkd label-maps`); use ms:K for crops"
            )
        if isinstance(parse_codec(self.codec), PerTeacher):
            raise ConfigError(f"codec: write --codec {self.codec.partition('*')[0]} --separate")
        if self.separate and (len(self.teachers) < 2 or parse_codec(self.codec).name == "logits"):
            raise ConfigError(
                "separate: keeps the probabilities of several teachers apart; name them in "
                "`teachers`, and use a codec of probabilities or logits:K"
            )
        if parse_codec(self.codec).stores == "logits" and self.value_dtype == "u16":
            raise ConfigError(
                "value_dtype: u16 holds probabilities only; use f16 or f32 for logits"
            )


def label_codec(config: LabelConfig) -> Codec:
    """How labels are compressed."""
    codec = parse_codec(config.codec)
    return PerTeacher(codec, len(config.teachers)) if config.separate else codec


def crop_config(config: LabelConfig) -> CropConfig:
    """How crops are drawn."""
    return CropConfig(
        num_crops=config.num_crops,
        scale=config.scale,
        ratio=config.ratio,
        flip_prob=config.flip_prob,
        seed=config.seed,
    )


def replayed_columns(config: LabelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to (dtype, shape per crop) of what is stored of a crop besides its box and flip."""
    return config.replayed.columns | mix_columns(config.stored_mixing)


def all_teachers(config: LabelConfig) -> list[TeacherConfig]:
    """The teachers, one or several."""
    return config.teachers if config.teacher is None else [config.teacher]


def resolve_device(device: str | None, local_rank: int = 0) -> torch.device:
    """The device that a setting means: a GPU for every process of a machine, or the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.is_available():
        device = f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device: {device!r} cannot be used here; use cpu, cuda or cuda:0"
        ) from error
    return torch.device(device)


def resolve_batch_size(batch_size: int | None, device: torch.device) -> int:
    """Crops per forward pass."""
    return batch_size or _BATCH_SIZE.get(device.type, _BATCH_SIZE["cuda"])


def resolve_autocast(config: LabelConfig) -> Autocast | None:
    """The half precision of the forward passes, None for exact ones."""
    return None if config.numerics == "exact" else config.autocast or "bf16"


def resolve_images_per_shard(config: LabelConfig, num_images: int) -> int:
    """Images in a unit of work: large enough to be worth a file, small enough to lose."""
    if config.images_per_shard is not None:
        return config.images_per_shard
    return default_images_per_shard(num_images, config.num_crops)


def default_images_per_shard(num_images: int, crops_per_image: int) -> int:
    """Images in a unit of work, where each sends that many crops through the teacher."""
    return max(
        ceil_div(num_images, _MOST_SHARDS), ceil_div(_LEAST_CROPS, crops_per_image), _LEAST_IMAGES
    )


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def build_store_config(
    config: LabelConfig, source: ImageSource, teachers: TeacherEnsemble, batch_size: int
) -> dict[str, Any]:
    """The identity of the store that a run makes: everything that its bytes depend on.

    Raises:
        ConfigError: the codec keeps more classes than there are.
    """
    codec = label_codec(config)
    identity = base_identity(
        source, teachers.class_names, codec, config.form, config.value_dtype
    ) | {
        "num_crops": config.num_crops,
        "extras": {
            name: {"dtype": np.dtype(dtype).str[1:], "shape": list(shape)}
            for name, (dtype, shape) in replayed_columns(config).items()
        },
        "images_per_shard": resolve_images_per_shard(config, len(source)),
        "teachers": teachers.identity(),
        "crops": {
            "generator": GENERATOR,
            "scale": [float(x) for x in config.scale],
            "ratio": [float(x) for x in config.ratio],
            "flip_prob": float(config.flip_prob),
            "seed": config.seed,
        },
        "augment": {
            "replayed": asdict(config.replayed),
            "student_only": asdict(config.student_only),
        },
        "numerics": describe_numerics(teachers, batch_size, resolve_autocast(config)),
    }
    if mixes(config.stored_mixing):
        _require_partners(source)
        identity["stored_mixing"] = asdict(config.stored_mixing)
    plain: dict[str, Any] = json.loads(json.dumps(identity))  # tuples become lists, as in a file
    return plain


def _require_partners(source: ImageSource) -> None:
    if not 2 <= len(source) < 1 << 32:
        raise ConfigError(
            f"stored_mixing needs 2 to 2^32 - 1 images, {source.root} has {len(source)}; leave it "
            "out"
        )


def base_identity(
    source: ImageSource,
    class_names: Sequence[str],
    codec: Codec,
    form: str,
    value_dtype: str | None,
) -> dict[str, Any]:
    """What the identity of every store says of its images, classes and labels.

    Raises:
        ConfigError: the codec keeps more classes than there are, or has no such form.
    """
    check_codec(codec, len(class_names))
    return form_members(form, codec, len(class_names), value_dtype) | {
        "num_images": len(source),
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "codec": codec.name,
        "keys_sha256": keys_digest(source.key(i) for i in range(len(source))),
        "decoder": DECODER,
    }


def describe_numerics(
    teachers: TeacherEnsemble, batch_size: int, autocast: Autocast | None
) -> dict[str, Any]:
    """What the last bits of a teacher's output depend on."""
    return {
        "dtype": "float32",
        "autocast": autocast,
        "batch_size": batch_size,
        "folded_batch_norms": [teacher.num_folded for teacher in teachers.teachers],
    }


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Libraries and hardware that made a store: not its identity, but a reason for last bits."""
    cpu = cpu_name()
    packages = ("fkd", "torch", "torchvision", "timm", "numpy", "pillow")
    return {
        "cpu": cpu,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
    }
